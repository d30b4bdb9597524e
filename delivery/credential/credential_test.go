package credential_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
)

func revealed(secrets []credential.Secret) []string {
	texts := []string{}
	for _, s := range secrets {
		texts = append(texts, s.Reveal())
	}
	return texts
}

func TestTypes(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []credential.Type{"none", "api_key", "bearer_token", "basic_auth", "custom_header"}, credential.Types())
	assert.NotContains(t, credential.Types(), credential.TypeUnknown)
	var zero credential.Type
	assert.Equal(t, credential.TypeUnknown, zero)
}

func TestParse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", credential.MaxInput)
	for _, test := range []struct {
		name        string
		typ         credential.Type
		header      string
		input       string
		wantName    string
		wantValue   string
		wantSecrets []string // beside the value
	}{
		{"none", "none", "", "", "", "", nil},
		{"none, an empty line", "none", "", "\n", "", "", nil},
		{"key", "api_key", "", "k3y", "X-API-Key", "k3y", nil},
		{"key, a line", "api_key", "", "k3y\n", "X-API-Key", "k3y", nil},
		{"key, a line of Windows", "api_key", "", "k3y\r\n", "X-API-Key", "k3y", nil},
		{"key, another header", "api_key", "x-Shop-Key", "k3y", "x-Shop-Key", "k3y", nil},
		{"key, in Authorization", "api_key", "Authorization", "Token k3y", "Authorization", "Token k3y", []string{"k3y"}},
		{"key, of one byte", "api_key", "", "k", "X-API-Key", "k", nil},
		{"key, as long as may be", "api_key", "", long, "X-API-Key", long, nil},
		{"key, not ASCII", "api_key", "", "schlüssel-東京", "X-API-Key", "schlüssel-東京", nil},
		{"token", "bearer_token", "", "t0k.en_-~+/==", "Authorization", "Bearer t0k.en_-~+/==", []string{"t0k.en_-~+/=="}},
		{"token with its scheme", "bearer_token", "", "Bearer t0k\n", "Authorization", "Bearer t0k", []string{"t0k"}},
		{"token, the scheme in lower case", "bearer_token", "", "bearer t0k", "Authorization", "Bearer t0k", []string{"t0k"}},
		{"token, header named", "bearer_token", "authorization", "t0k", "authorization", "Bearer t0k", []string{"t0k"}},
		{"token like the scheme", "bearer_token", "", "Bearerx", "Authorization", "Bearer Bearerx", []string{"Bearerx"}},
		{"user and password", "basic_auth", "", "Aladdin:open sesame\n", "Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
			[]string{"QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin:open sesame", "open sesame"}},
		{"password with colons and spaces", "basic_auth", "Authorization", "u: p:é ", "Authorization", "Basic dTogcDrDqSA=",
			[]string{"dTogcDrDqSA=", "u: p:é ", " p:é "}},
		{"a key without a password", "basic_auth", "", "stripe-key:", "Authorization", "Basic c3RyaXBlLWtleTo=", []string{"c3RyaXBlLWtleTo=", "stripe-key:", "stripe-key"}},
		{"value", "custom_header", "X-Shop", "a \"value\", with; much", "X-Shop", "a \"value\", with; much", []string{"\"value\", with; much"}},
		{"value with a scheme", "custom_header", "Authorization", "Token  k3y", "Authorization", "Token  k3y", []string{"k3y"}},
		{"value, odd name", "custom_header", "!#$%&'*+-.^_`|~09azAZ", "v", "!#$%&'*+-.^_`|~09azAZ", "v", nil},
		{"like a reserved name", "custom_header", "X-Webhook-Id", "v", "X-Webhook-Id", "v", nil},
		{"like ours", "custom_header", "X-Riverhook", "v", "X-Riverhook", "v", nil},
		{"longest name", "custom_header", strings.Repeat("n", 256), "v", strings.Repeat("n", 256), "v", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := credential.Parse(test.typ, test.header, []byte(test.input))
			require.NoError(t, err)
			for range 2 { // as parsed, and as stored
				assert.Equal(t, test.typ, got.Type)
				assert.Equal(t, test.wantName, got.HeaderName)
				name, value, ok := got.Header()
				assert.Equal(t, test.typ != credential.TypeNone, ok)
				assert.Equal(t, test.wantName, name)
				assert.Equal(t, test.wantValue, value.Reveal())
				if ok {
					assert.Equal(t, append([]string{test.wantValue}, test.wantSecrets...), revealed(got.Secrets()))
				} else {
					assert.Empty(t, got.Secrets())
				}
				got, err = credential.Decode(got.Encode())
				require.NoError(t, err)
			}
		})
	}
}

func TestParseRejects(t *testing.T) {
	t.Parallel()
	const s = "hunter2"
	for _, test := range []struct {
		name   string
		typ    credential.Type
		header string
		input  string
		want   string
	}{
		{"no type", "", "", s, "must be one of none, api_key, bearer_token, basic_auth, custom_header"},
		{"an unknown type", s, "", s, "must be one of"},
		{"none with a secret", "none", "", s, "has no secret"},
		{"none with two lines", "none", "", "\n\n", "has no secret"},
		{"none with a header", "none", "X-A", "", "has no header"},
		{"empty key", "api_key", "", "", "empty"},
		{"an empty line", "api_key", "", "\n", "empty"},
		{"two line ends", "api_key", "", s + "\n\n", "more than one line"},
		{"a lone carriage return", "api_key", "", s + "\r", "more than one line"},
		{"two carriage returns", "api_key", "", s + "\r\r\n", "more than one line"},
		{"two lines", "api_key", "", s + "\nX-Evil: 1", "more than one line"},
		{"two lines of Windows", "api_key", "", s + "\r\nX-Evil: 1", "more than one line"},
		{"NUL", "api_key", "", s + "\x00", "control character"},
		{"tab inside", "api_key", "", s + "\t" + s, "control character"},
		{"escape", "api_key", "", "\x1b" + s, "control character"},
		{"delete", "api_key", "", s + "\x7f", "control character"},
		{"C1", "api_key", "", s + "\u0085", "control character"},
		{"not UTF-8", "api_key", "", s + "\xff", "UTF-8"},
		{"UTF-16", "api_key", "", "\xff\xfeh\x00", "UTF-8"},
		{"byte order mark", "api_key", "", "\uFEFF" + s, "byte order mark"},
		{"space before", "api_key", "", " " + s, "white space"},
		{"space behind", "api_key", "", s + " \n", "white space"},
		{"tab behind", "custom_header", "X-A", s + "\t", "white space"},
		{"only spaces", "api_key", "", "  ", "white space"},
		{"too long", "api_key", "", strings.Repeat(s, credential.MaxInput), "longer than 4096 bytes"},
		{"one too long", "api_key", "", strings.Repeat("x", credential.MaxInput+1), "longer than 4096 bytes"},
		{"no token", "bearer_token", "", "", "empty"},
		{"only the scheme", "bearer_token", "", "Bearer \n", "empty"},
		{"two spaces behind the scheme", "bearer_token", "", "Bearer  " + s, "white space"},
		{"the scheme twice", "bearer_token", "", "Bearer Bearer " + s, "space in it"},
		{"a token of two words", "bearer_token", "", s + " " + s, "space in it"},
		{"a token elsewhere", "bearer_token", "X-Token", s, "Authorization"},
		{"a token in two lines", "bearer_token", "", s + "\n" + s, "more than one line"},
		{"nothing", "basic_auth", "", "", "empty"},
		{"no colon", "basic_auth", "", s, "no colon"},
		{"neither", "basic_auth", "", ":\n", "empty"},
		{"a user in two lines", "basic_auth", "", "u\n" + s + ":" + s, "more than one line"},
		{"a password in two lines", "basic_auth", "", "u:" + s + "\n" + s, "more than one line"},
		{"a password that is not UTF-8", "basic_auth", "", "u:" + s + "\xc3", "UTF-8"},
		{"a user with a control character", "basic_auth", "", "u\x01:" + s, "control character"},
		{"user and password elsewhere", "basic_auth", "Proxy-Authorization", "u:" + s, "Authorization"},
		{"no header", "custom_header", "", s, "name of a header"},
		{"no value", "custom_header", "X-A", "", "empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := credential.Parse(test.typ, test.header, []byte(test.input))
			require.ErrorContains(t, err, test.want)
			assert.True(t, strings.HasPrefix(err.Error(), "credential: "), err.Error())
			assert.NotContains(t, err.Error(), s)
			if test.typ != credential.TypeNone {
				assert.Zero(t, got.Type)
			}
			assert.Empty(t, got.Secrets())
			_, _, ok := got.Header()
			assert.False(t, ok)
		})
	}
}

func TestParseRejectsHeaders(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Host", "host", "HOST", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate",
		"Proxy-Authorization", "TE", "Trailer", "Upgrade", "HTTP2-Settings", "Expect", "Content-Type", "Content-Encoding", "Content-Range",
		"webhook-id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE", "webhook-anything", "webhook-",
		"X-Riverhook-Delivery-Id", "x-riverhook-anything", "X-RIVERHOOK-",
		" ", "X A", "X-A ", " X-A", "X:A", ":authority", "X-A:", "X,A", "X;A", "X(A)", "X/A", "X=A", "X@A", "X[A]", "X{A}", `X"A`, `X\A`,
		"X-A\r\nX-Evil", "X-A\n", "X\x00A", "X\x7fA", "Xé", "X\xff", "\u212Aeep-alive", strings.Repeat("n", 257),
	} {
		for _, typ := range []credential.Type{credential.TypeAPIKey, credential.TypeCustomHeader} {
			_, err := credential.Parse(typ, name, []byte("hunter2"))
			require.Error(t, err, "%q", name)
			assert.Contains(t, err.Error(), "header", "%q", name)
			assert.NotContains(t, err.Error(), "hunter2", "%q", name)
		}
	}
	// A secret that was given as the name is not repeated.
	_, err := credential.Parse(credential.TypeCustomHeader, "hunter2:hunter2", []byte("v"))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "hunter2")
}

func TestCredentialCannotPrint(t *testing.T) {
	t.Parallel()
	for typ, input := range map[credential.Type]string{"api_key": hunter, "bearer_token": hunter, "basic_auth": "user:" + hunter} {
		c, err := credential.Parse(typ, "", []byte(input))
		require.NoError(t, err)
		leaks := append([]string{base64.StdEncoding.EncodeToString([]byte(input))}, spellings...)
		for _, value := range []any{c, &c, []credential.Credential{c}, struct{ c credential.Credential }{c}, struct{ C *credential.Credential }{&c}, struct{ c any }{c}} {
			assertSilent(t, value, leaks...)
		}
		assert.Equal(t, string(typ)+" in "+c.HeaderName, fmt.Sprintf("%+v", c))
	}
	assert.Equal(t, "none", credential.Credential{Type: credential.TypeNone}.String())
}

func TestZeroCredential(t *testing.T) {
	t.Parallel()
	var c credential.Credential
	_, _, ok := c.Header()
	assert.False(t, ok)
	assert.Empty(t, c.Secrets())
	_, err := credential.Decode(c.Encode())
	require.Error(t, err)
}

// What version 1 wrote is read for ever.
func TestDecodeVersion1(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"v":1,"type":"none"}`: "",
		`{"v":1,"type":"api_key","header":"X-API-Key","secret":"k3y"}`:                      "X-API-Key: k3y",
		`{"v":1,"type":"bearer_token","header":"Authorization","secret":"t0k"}`:             "Authorization: Bearer t0k",
		`{"v":1,"type":"basic_auth","header":"Authorization","user":"u","secret":"\u003c"}`: "Authorization: Basic dTo8",
		`{"v":1,"type":"custom_header","header":"X-A","secret":"é"}`:                        "X-A: é",
	} {
		c, err := credential.Decode([]byte(text))
		require.NoError(t, err)
		assert.Equal(t, text, string(c.Encode()))
		name, value, ok := c.Header()
		if want == "" {
			assert.False(t, ok)
			continue
		}
		assert.Equal(t, want, name+": "+value.Reveal())
	}
}

func TestDecodeRejects(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:        "not a credential",
		`hunter2`: "not a credential",
		`{"v":1,"type":"api_key","header":"X-A","secret":"hunter2"`:                                  "not a credential",
		`{"v":1,"type":"api_key","header":"X-A","secret":"hunter2"}hunter2`:                          "not a credential",
		`{"v":1,"type":"api_key","header":"X-A","secret":["hunter2"]}`:                               "not a credential",
		`{"type":"api_key","header":"X-A","secret":"hunter2"}`:                                       "version 0",
		`{"v":2,"type":"api_key","header":"X-A","secret":"hunter2"}`:                                 "version 2",
		`{"v":1,"type":"hunter2","header":"X-A","secret":"hunter2"}`:                                 "must be one of",
		`{"v":1,"type":"api_key","header":"Host","secret":"hunter2"}`:                                "header host",
		`{"v":1,"type":"api_key","header":"X-A","secret":"hunter2\nX-Evil:1"}`:                       "more than one line",
		`{"v":1,"type":"api_key","header":"X-A"}`:                                                    "empty",
		`{"v":1,"type":"none","secret":"hunter2"}`:                                                   "no secret",
		`{"v":1,"type":"basic_auth","header":"Authorization","user":"a:hunter2","secret":"hunter2"}`: "colon",
		`{"v":1,"type":"bearer_token","header":"X-A","secret":"hunter2"}`:                            "Authorization",
		`null`: "version 0",
		`[]`:   "not a credential",
	} {
		c, err := credential.Decode([]byte(text))
		require.ErrorContains(t, err, want, text)
		assert.NotContains(t, err.Error(), "hunter2")
		assert.Empty(t, c.Secrets())
	}
}

func FuzzParse(f *testing.F) {
	for _, t := range credential.Types() {
		f.Add(string(t), "", "secret\n")
		f.Add(string(t), "X-A", "user:pass\r\n")
	}
	f.Add("bearer_token", "authorization", "bearer x\n")
	f.Fuzz(func(t *testing.T, typ, header, input string) {
		c, err := credential.Parse(credential.Type(typ), header, []byte(input))
		if err != nil {
			if bare := strings.TrimSpace(input); len(bare) > 12 && !strings.Contains(strings.ToLower(header), bare) {
				assert.NotContains(t, err.Error(), bare)
			}
			return
		}
		name, value, ok := c.Header()
		require.Equal(t, c.Type != credential.TypeNone, ok)
		require.NotContains(t, value.Reveal(), "\n")
		require.NotContains(t, value.Reveal(), "\r")
		require.NotContains(t, value.Reveal(), "\x00")
		require.NotContains(t, name, ":")
		again, err := credential.Decode(c.Encode())
		require.NoError(t, err)
		assert.Equal(t, c.Encode(), again.Encode())
		_, valueAgain, _ := again.Header()
		assert.Equal(t, value.Reveal(), valueAgain.Reveal())
		for _, s := range c.Secrets() {
			assert.False(t, s.IsZero())
			if len(s.Reveal()) >= 4 {
				assert.NotContains(t, fmt.Sprintf("%#v", struct{ c credential.Credential }{c}), " "+s.Reveal()+" ")
			}
		}
	})
}
