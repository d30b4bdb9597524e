package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Type is what kind of credential it is, as the database has it.
type Type string

// The types.
const (
	TypeUnknown      Type = ""
	TypeNone         Type = "none"          // no header: a request is sent as it is
	TypeAPIKey       Type = "api_key"       // a key in a header, X-API-Key unless another is named
	TypeBearerToken  Type = "bearer_token"  // Authorization: Bearer <token>
	TypeBasicAuth    Type = "basic_auth"    // Authorization: Basic <base64 of user:password>
	TypeCustomHeader Type = "custom_header" // a header of one's own
)

// Types are all of them, without the unknown one.
func Types() []Type {
	return []Type{TypeNone, TypeAPIKey, TypeBearerToken, TypeBasicAuth, TypeCustomHeader}
}

// MaxInput is the longest input that Parse takes, in bytes.
const MaxInput = 4 << 10

const (
	defaultAPIKeyHeader = "X-API-Key"
	authorization       = "Authorization"
	bearer              = "Bearer "
	basic               = "Basic "
)

// Credential authenticates requests with one header. It is made by Parse or Decode. The zero Credential has no header.
type Credential struct {
	Type       Type
	HeaderName string // as it was named; empty for TypeNone

	user   string // of TypeBasicAuth
	secret Secret // the bare key, token, password or value
}

// Parse reads a credential that somebody gives, in a file or on stdin:
//
//	none           nothing
//	api_key        the key, sent in X-API-Key or in the header that is named
//	bearer_token   the token, with or without "Bearer " before it, sent in Authorization
//	basic_auth     user:password, sent in Authorization; the user has no colon
//	custom_header  the value, sent in the header that must be named
//
// One line end at the end is not part of it. Refused are: what is empty, longer than MaxInput or not UTF-8; control
// characters and byte order marks; white space at either end of what is sent as it is, because HTTP drops it; header names
// that are none, or that belong to the connection, the framing, the body, riverhook or Standard Webhooks. An error never
// contains any of the input.
func Parse(t Type, header string, input []byte) (Credential, error) {
	if len(input) > MaxInput {
		return Credential{}, fmt.Errorf("credential: the secret is longer than %d bytes", MaxInput)
	}
	text := string(input)
	if line, ok := strings.CutSuffix(text, "\n"); ok {
		text = strings.TrimSuffix(line, "\r")
	}
	c := Credential{Type: t, HeaderName: header}
	switch t {
	case TypeNone:
		if text != "" {
			return Credential{}, errors.New("credential: type none has no secret, and there is one")
		}
		return c, c.check()
	case TypeAPIKey:
		if header == "" {
			c.HeaderName = defaultAPIKeyHeader
		}
	case TypeBearerToken:
		c.HeaderName = orAuthorization(header)
		if len(text) >= len(bearer) && strings.EqualFold(text[:len(bearer)], bearer) {
			text = text[len(bearer):]
		}
	case TypeBasicAuth:
		c.HeaderName = orAuthorization(header)
		user, password, ok := strings.Cut(text, ":")
		if !ok && text != "" {
			return Credential{}, errors.New("credential: type basic_auth wants user:password, and there is no colon")
		}
		c.user, text = user, password
	}
	c.secret = NewSecret(text)
	if err := c.check(); err != nil {
		return Credential{}, err
	}
	return c, nil
}

func orAuthorization(header string) string {
	if header == "" {
		return authorization
	}
	return header
}

// check says what is wrong with c, whether it was read from a person or from the database.
func (c Credential) check() error {
	secret := c.secret.Reveal()
	switch c.Type {
	case TypeNone:
		if c.HeaderName != "" || c.user != "" || secret != "" {
			return errors.New("credential: type none has no header and no secret")
		}
		return nil
	case TypeAPIKey, TypeCustomHeader:
		if err := checkHeaderName(c.HeaderName, c.Type); err != nil {
			return err
		}
	case TypeBearerToken, TypeBasicAuth:
		if !strings.EqualFold(c.HeaderName, authorization) {
			return fmt.Errorf("credential: type %s is sent in %s: for another header, use %s or %s", c.Type, authorization, TypeAPIKey, TypeCustomHeader)
		}
	default:
		return fmt.Errorf("credential: the type must be one of %s", typeNames())
	}
	if c.Type == TypeBasicAuth {
		if c.user == "" && secret == "" {
			return errors.New("credential: type basic_auth wants user:password, and both are empty")
		}
		if strings.Contains(c.user, ":") {
			return errors.New("credential: the user of type basic_auth has a colon")
		}
		if err := checkText(c.user); err != nil {
			return err
		}
		return checkText(secret) // white space at the ends is in the base64
	}
	if secret == "" {
		return errors.New("credential: the secret is empty")
	}
	if strings.Trim(secret, " \t") != secret {
		return errors.New("credential: the secret begins or ends with white space, which HTTP drops")
	}
	if c.Type == TypeBearerToken && strings.Contains(secret, " ") {
		return errors.New("credential: the token has a space in it")
	}
	return checkText(secret)
}

func typeNames() string {
	names := make([]string, 0, len(Types()))
	for _, t := range Types() {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

// checkText refuses what is not text, without repeating it.
func checkText(text string) error {
	switch {
	case len(text) > MaxInput:
		return fmt.Errorf("credential: the secret is longer than %d bytes", MaxInput)
	case !utf8.ValidString(text):
		return errors.New("credential: the secret is not UTF-8 text")
	case strings.ContainsAny(text, "\r\n"):
		return errors.New("credential: the secret has more than one line")
	case strings.ContainsFunc(text, unicode.IsControl):
		return errors.New("credential: the secret has a control character in it")
	case strings.ContainsRune(text, '\uFEFF'):
		return errors.New("credential: the secret has a byte order mark in it, as some editors write at the beginning of a file")
	}
	return nil
}

// maxHeaderName bounds a header's name, in bytes.
const maxHeaderName = 256

// reserved are the headers that a credential cannot be sent in: those of the connection, the framing and the body. Lower
// case.
var reserved = []string{
	"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
	"transfer-encoding", "upgrade", "http2-settings", "expect", "host",
	"content-length", "content-type", "content-encoding", "content-range",
}

// reservedPrefixes are ours and those of Standard Webhooks. Lower case.
var reservedPrefixes = []string{"x-riverhook-", "webhook-"}

// checkHeaderName does not repeat a name that is none: it may be a secret, given in the wrong place.
func checkHeaderName(name string, t Type) error {
	lower := strings.ToLower(name)
	switch {
	case name == "":
		return fmt.Errorf("credential: type %s wants the name of a header", t)
	case len(name) > maxHeaderName:
		return fmt.Errorf("credential: the header's name is longer than %d bytes", maxHeaderName)
	case strings.ContainsFunc(name, notOfToken):
		return errors.New("credential: the header's name is none: letters, digits and !#$%&'*+-.^_`|~ make one")
	case slices.Contains(reserved, lower):
		return fmt.Errorf("credential: the header %s belongs to HTTP itself", lower)
	}
	for _, prefix := range reservedPrefixes {
		if strings.HasPrefix(lower, prefix) {
			return fmt.Errorf("credential: headers that begin with %s are riverhook's own", prefix)
		}
	}
	return nil
}

func notOfToken(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// Header is what authenticates a request. ok is false when there is none to send: for TypeNone, and for the zero
// Credential.
func (c Credential) Header() (name string, value Secret, ok bool) {
	switch c.Type {
	case TypeAPIKey, TypeCustomHeader:
		return c.HeaderName, c.secret, true
	case TypeBearerToken:
		return c.HeaderName, NewSecret(bearer + c.secret.Reveal()), true
	case TypeBasicAuth:
		return c.HeaderName, NewSecret(basic + c.pairBase64()), true
	}
	return "", Secret{}, false
}

func (c Credential) pair() string { return c.user + ":" + c.secret.Reveal() }

func (c Credential) pairBase64() string { return base64.StdEncoding.EncodeToString([]byte(c.pair())) }

// Secrets is every text that gives the credential away, for a Scrubber: the header's value, and what it is made of. The
// user of TypeBasicAuth is none.
func (c Credential) Secrets() []Secret {
	_, value, ok := c.Header()
	if !ok {
		return nil
	}
	secrets := []Secret{value}
	switch c.Type {
	case TypeBearerToken:
		secrets = append(secrets, c.secret)
	case TypeBasicAuth:
		bare := c.secret
		if bare.IsZero() { // some take a key as the user, without a password
			bare = NewSecret(c.user)
		}
		secrets = append(secrets, NewSecret(c.pairBase64()), NewSecret(c.pair()), bare)
	case TypeAPIKey, TypeCustomHeader:
		// "Token 4f2a": receivers take the scheme off, and repeat the rest.
		if scheme, rest, found := strings.Cut(c.secret.Reveal(), " "); found && !strings.ContainsFunc(scheme, notOfToken) {
			secrets = append(secrets, NewSecret(strings.TrimLeft(rest, " ")))
		}
	}
	return secrets
}

// String says what it is without the secret.
func (c Credential) String() string {
	if c.HeaderName == "" {
		return string(c.Type)
	}
	return string(c.Type) + " in " + c.HeaderName
}

// Format writes String for every verb.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// plainVersion is the version of what Encode writes.
const plainVersion = 1

type plain struct {
	Version int    `json:"v"`
	Type    Type   `json:"type"`
	Header  string `json:"header,omitempty"`
	User    string `json:"user,omitempty"`
	Secret  string `json:"secret,omitempty"`
}

// Encode is the credential with its secret in clear, to be sealed. Decode reads it.
func (c Credential) Encode() []byte {
	text, err := json.Marshal(plain{Version: plainVersion, Type: c.Type, Header: c.HeaderName, User: c.user, Secret: c.secret.Reveal()})
	if err != nil {
		panic(err) // strings and a number
	}
	return text
}

// Decode reads what Encode wrote, and checks it as Parse does. An error never contains any of it.
func Decode(encoded []byte) (Credential, error) {
	var p plain
	if err := json.Unmarshal(encoded, &p); err != nil { // whose text may quote it
		return Credential{}, errors.New("credential: what is stored is not a credential")
	}
	if p.Version != plainVersion {
		return Credential{}, fmt.Errorf("credential: what is stored has version %d, and this riverhook reads version %d", p.Version, plainVersion)
	}
	c := Credential{Type: p.Type, HeaderName: p.Header, user: p.User}
	if p.Secret != "" {
		c.secret = NewSecret(p.Secret)
	}
	if err := c.check(); err != nil {
		return Credential{}, err
	}
	return c, nil
}
