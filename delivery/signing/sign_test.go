package signing_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/signing"
)

// vector is a case of testdata/signing/vectors.json. The signatures were not computed by this package but by Python. To
// recompute one, with v as the case:
//
//	message = f"{v['id']}.{v['timestamp']}.".encode() + base64.b64decode(v["body_base64"])
//	raw = base64.b64decode(v["key"].split("_")[1])
//	whsec_: "v1," + base64.b64encode(hmac.new(raw, message, hashlib.sha256).digest()).decode()
//	whsk_: "v1a," + base64.b64encode(Ed25519PrivateKey.from_private_bytes(raw[:32]).sign(message)).decode()
//
// where Ed25519PrivateKey is of cryptography.hazmat.primitives.asymmetric.ed25519. With a shell, for whsec_:
//
//	openssl dgst -sha256 -mac HMAC -macopt hexkey:<raw as hex> -binary <message-file> | base64
type vector struct {
	Name      string `json:"name"`
	ID        string `json:"id"`
	Timestamp int64  `json:"timestamp"`
	Body      []byte `json:"body_base64"`
	Key       string `json:"key"`
	Public    string `json:"public"`
	Signature string `json:"signature"`
}

func vectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("../../testdata/signing/vectors.json")
	require.NoError(t, err)
	var all []vector
	require.NoError(t, json.Unmarshal(text, &all))
	require.Len(t, all, 16)
	return all
}

const testID = "018f5e1c-7b1a-7c3e-9f00-2c5d6b7a8e90"

// noon is a fixed time of an attempt.
var noon = time.Date(2026, time.March, 4, 12, 0, 0, 999_999_999, time.FixedZone("", 3600))

// headers are those of a signed request, under the names that are sent.
func headers(id string, at time.Time, signature string) http.Header {
	h := http.Header{}
	h.Set(signing.HeaderID, id)
	h.Set(signing.HeaderTimestamp, signing.Timestamp(at))
	h.Set(signing.HeaderSignature, signature)
	return h
}

// verifyPublic is a receiver that knows a whpk_ key: the library verifies v1 only.
func verifyPublic(t *testing.T, public string, body []byte, h http.Header) bool {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(public, "whpk_"))
	require.NoError(t, err)
	require.Len(t, key, ed25519.PublicKeySize)
	message := h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + string(body)
	for one := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
		text, ok := strings.CutPrefix(one, "v1a,")
		if !ok {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(text)
		require.NoError(t, err)
		if ed25519.Verify(key, []byte(message), signature) {
			return true
		}
	}
	return false
}

// verifySymmetric is a receiver with the Standard Webhooks library.
func verifySymmetric(t *testing.T, key string, body []byte, h http.Header) error {
	t.Helper()
	receiver, err := standardwebhooks.NewWebhook(key)
	require.NoError(t, err)
	return receiver.VerifyIgnoringTimestamp(body, h)
}

func TestVectors(t *testing.T) {
	t.Parallel()
	symmetric, asymmetric := 0, 0
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			key, err := signing.ParseKey(v.Key)
			require.NoError(t, err)
			assert.Equal(t, v.Key, key.Reveal())
			at := time.Unix(v.Timestamp, 0)
			assert.Equal(t, strconv.FormatInt(v.Timestamp, 10), signing.Timestamp(at))
			assert.Equal(t, v.Signature, signing.Sign(v.ID, at, v.Body, key))
			public, ok := key.Public()
			assert.Equal(t, v.Public, public)
			assert.Equal(t, v.Public != "", ok)
		})
		if v.Public == "" {
			symmetric++
		} else {
			asymmetric++
		}
	}
	assert.Equal(t, 10, symmetric)
	assert.Equal(t, 6, asymmetric)
}

func TestHeaderNames(t *testing.T) {
	t.Parallel()
	assert.Equal(t, standardwebhooks.HeaderWebhookID, signing.HeaderID)
	assert.Equal(t, standardwebhooks.HeaderWebhookTimestamp, signing.HeaderTimestamp)
	assert.Equal(t, standardwebhooks.HeaderWebhookSignature, signing.HeaderSignature)
}

var bodies = map[string][]byte{
	"none":    nil,
	"empty":   {},
	"json":    []byte(`{"event":"call.done"}`),
	"unicode": []byte(`{"name":"Zoë 東京 🌊"}`),
	"binary":  {0, 1, 2, 0xff, 0xfe, '\r', '\n', 0},
	"1 MiB":   []byte(strings.Repeat("0123456789abcdef", 1<<16)),
}

func TestReceiversVerify(t *testing.T) {
	t.Parallel()
	now := time.Now() // the library's Verify holds it against the clock
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			symmetric, asymmetric := signing.Generate(), signing.GenerateEd25519()
			h := headers(testID, now, signing.Sign(testID, now, body, symmetric))
			receiver, err := standardwebhooks.NewWebhook(symmetric.Reveal())
			require.NoError(t, err)
			require.NoError(t, receiver.Verify(body, h))

			public, ok := asymmetric.Public()
			require.True(t, ok)
			h = headers(testID, now, signing.Sign(testID, now, body, asymmetric))
			assert.True(t, verifyPublic(t, public, body, h))
		})
	}
}

// What the library signs is what we sign.
func TestSignsAsTheLibraryDoes(t *testing.T) {
	t.Parallel()
	key := signing.Generate()
	library, err := standardwebhooks.NewWebhook(key.Reveal())
	require.NoError(t, err)
	for name, body := range bodies {
		want, err := library.Sign(testID, noon, body)
		require.NoError(t, err)
		assert.Equal(t, want, signing.Sign(testID, noon, body, key), name)
	}
}

func TestTampering(t *testing.T) {
	t.Parallel()
	body := []byte(`{"event":"call.done"}`)
	symmetric, asymmetric := signing.Generate(), signing.GenerateEd25519()
	public, _ := asymmetric.Public()
	otherPublic, _ := signing.GenerateEd25519().Public()
	good := headers(testID, noon, signing.Sign(testID, noon, body, symmetric, asymmetric))
	require.NoError(t, verifySymmetric(t, symmetric.Reveal(), body, good))
	require.True(t, verifyPublic(t, public, body, good))

	for _, test := range []struct {
		name   string
		body   string
		header string
		value  string
	}{
		{"body, one byte", `{"event":"call.donf"}`, "", ""},
		{"body, longer", `{"event":"call.done"} `, "", ""},
		{"body, shorter", `{"event":"call.done"`, "", ""},
		{"no body", ``, "", ""},
		{"id", string(body), signing.HeaderID, "018f5e1c-7b1a-7c3e-9f00-2c5d6b7a8e91"},
		{"a second later", string(body), signing.HeaderTimestamp, signing.Timestamp(noon.Add(time.Second))},
		{"a second earlier", string(body), signing.HeaderTimestamp, signing.Timestamp(noon.Add(-time.Second))},
		{"the other's signature under our version", string(body), signing.HeaderSignature, swapVersions(good.Get(signing.HeaderSignature))},
		{"another's signatures", string(body), signing.HeaderSignature,
			signing.Sign(testID, noon, body, signing.Generate(), signing.GenerateEd25519())},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := good.Clone()
			if test.header != "" {
				h.Set(test.header, test.value)
			}
			require.ErrorIs(t, verifySymmetric(t, symmetric.Reveal(), []byte(test.body), h), standardwebhooks.ErrNoMatchingSignature)
			assert.False(t, verifyPublic(t, public, []byte(test.body), h))
		})
	}
	require.Error(t, verifySymmetric(t, signing.Generate().Reveal(), body, good), "another key does not verify")
	assert.False(t, verifyPublic(t, otherPublic, body, good), "another key does not verify")
}

func swapVersions(signature string) string {
	return strings.NewReplacer("v1,", "v1a,", "v1a,", "v1,").Replace(signature)
}

// A signature is for one request: no other split of id, time and body has it.
func TestEachPartCounts(t *testing.T) {
	t.Parallel()
	key := signing.Generate()
	at := time.Unix(1700000000, 0)
	seen := map[string]string{}
	for _, id := range []string{"a", "a1", "a-1700000000"} {
		for _, body := range []string{"", "1700000000.", "a.1700000000.", "1"} {
			for _, when := range []time.Time{at, time.Unix(17, 0), at.Add(time.Second)} {
				signature := signing.Sign(id, when, []byte(body), key)
				name := id + " " + signing.Timestamp(when) + " " + body
				assert.NotContains(t, seen, signature, "%s and %s", name, seen[signature])
				seen[signature] = name
			}
		}
	}
}

func TestTimeIsInWholeSeconds(t *testing.T) {
	t.Parallel()
	key := signing.Generate()
	second := noon.Truncate(time.Second)
	assert.Equal(t, signing.Sign(testID, second, nil, key), signing.Sign(testID, noon, nil, key))
	assert.Equal(t, signing.Sign(testID, second, nil, key), signing.Sign(testID, second.UTC(), nil, key))
	assert.Equal(t, "1772622000", signing.Timestamp(noon))
}

func TestRotation(t *testing.T) {
	t.Parallel()
	body := bodies["json"]
	older, newer, asymmetric := signing.Generate(), signing.Generate(), signing.GenerateEd25519()
	public, _ := asymmetric.Public()

	both := headers(testID, noon, signing.Sign(testID, noon, body, newer, asymmetric, older))
	require.NoError(t, verifySymmetric(t, older.Reveal(), body, both))
	require.NoError(t, verifySymmetric(t, newer.Reveal(), body, both))
	assert.True(t, verifyPublic(t, public, body, both))

	after := headers(testID, noon, signing.Sign(testID, noon, body, newer))
	require.Error(t, verifySymmetric(t, older.Reveal(), body, after))
	require.NoError(t, verifySymmetric(t, newer.Reveal(), body, after))
}

func TestSignaturesStandInTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	a, b, c := signing.Generate(), signing.GenerateEd25519(), signing.Generate()
	one := func(k signing.Key) string { return signing.Sign(testID, noon, nil, k) }
	assert.Equal(t, one(a)+" "+one(b)+" "+one(c), signing.Sign(testID, noon, nil, a, b, c))
	assert.Equal(t, one(c)+" "+one(b)+" "+one(a), signing.Sign(testID, noon, nil, c, b, a))
	assert.Equal(t, one(a)+" "+one(a), signing.Sign(testID, noon, nil, a, a))
	assert.Equal(t, one(a)+" "+one(b), signing.Sign(testID, noon, nil, signing.Key{}, a, signing.Key{}, b, signing.Key{}))
	assert.Empty(t, signing.Sign(testID, noon, nil))
	assert.Empty(t, signing.Sign(testID, noon, nil, signing.Key{}))
}

func TestSignLeavesTheBodyAlone(t *testing.T) {
	t.Parallel()
	backing := []byte("0123456789")
	body := backing[:4] // with room behind it, which an append would write to
	signing.Sign(testID, noon, body, signing.Generate(), signing.GenerateEd25519())
	assert.Equal(t, "0123456789", string(backing))
}

func BenchmarkSign(b *testing.B) {
	for _, algorithm := range []struct {
		name string
		key  signing.Key
	}{{"hmac", signing.Generate()}, {"ed25519", signing.GenerateEd25519()}} {
		for _, size := range []int{1 << 10, 1 << 20} {
			body := make([]byte, size)
			b.Run(algorithm.name+"/"+strconv.Itoa(size), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					signing.Sign(testID, noon, body, algorithm.key)
				}
			})
		}
	}
}

// A megabyte is not copied for a symmetric key, and once for many asymmetric ones. Not parallel: it counts what the whole
// program allocates.
func TestSignCopiesNoLargeBody(t *testing.T) {
	body := bodies["1 MiB"]
	symmetric, asymmetric := signing.Generate(), signing.GenerateEd25519()
	for name, test := range map[string]struct {
		keys        []signing.Key
		least, most uint64
	}{
		"two symmetric":    {[]signing.Key{symmetric, symmetric}, 0, 512 << 10},
		"three asymmetric": {[]signing.Key{asymmetric, asymmetric, asymmetric}, 1 << 20, 3 << 19},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		signing.Sign(testID, noon, body, test.keys...)
		runtime.ReadMemStats(&after)
		allocated := after.TotalAlloc - before.TotalAlloc
		assert.GreaterOrEqual(t, allocated, test.least, name)
		assert.Less(t, allocated, test.most, name)
	}
}
