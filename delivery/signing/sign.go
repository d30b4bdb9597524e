package signing

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"
)

// The headers of a signed request. HeaderTimestamp is what Timestamp gives, HeaderSignature is what Sign gives.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// Timestamp is at as it is signed and sent: seconds since 1970.
func Timestamp(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// Sign gives the signatures of body, as it is sent, by each of keys, in their order: v1,<base64> of a symmetric and
// v1a,<base64> of an asymmetric key, a space between two. A receiver accepts a request if one signature is good, so a key
// is replaced by signing with the old and the new one for a while. Zero keys are left out; without keys it is empty.
//
// What is signed is "id.timestamp.body": id must not contain a '.', which would let one signature stand for two requests.
// A UUID has none. Receivers refuse a timestamp that is more than five minutes off, so at is the time of the attempt.
//
// A body is not copied for symmetric keys, and copied once for all asymmetric ones.
func Sign(id string, at time.Time, body []byte, keys ...Key) string {
	head := make([]byte, 0, 64)
	head = append(head, id...)
	head = append(head, '.')
	head = strconv.AppendInt(head, at.Unix(), 10)
	head = append(head, '.')

	var message []byte // head and body in one piece: ed25519 reads it twice
	signatures := make([]byte, 0, 96*len(keys))
	for _, key := range keys {
		if key.IsZero() {
			continue
		}
		if len(signatures) > 0 {
			signatures = append(signatures, ' ')
		}
		switch key.Algorithm() {
		case AlgorithmHMACSHA256:
			var sum [sha256.Size]byte
			mac := hmac.New(sha256.New, key.material().symmetric)
			mac.Write(head)
			mac.Write(body)
			signatures = append(signatures, "v1,"...)
			signatures = base64.StdEncoding.AppendEncode(signatures, mac.Sum(sum[:0]))
		case AlgorithmEd25519:
			if message == nil {
				message = append(append(make([]byte, 0, len(head)+len(body)), head...), body...)
			}
			signatures = append(signatures, "v1a,"...)
			signatures = base64.StdEncoding.AppendEncode(signatures, ed25519.Sign(key.material().private, message))
		}
	}
	return string(signatures)
}
