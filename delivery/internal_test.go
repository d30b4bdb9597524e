package delivery

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		n    int
		want string
	}{
		{"", 0, ""}, {"", 3, ""}, {"ab", 3, "ab"}, {"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"abc", 0, ""},
		{"éé", 3, "éé"}, {"ééé", 3, "ééé"}, {"éééé", 3, "ééé"}, {"a😀b😀", 3, "a😀b"},
	} {
		assert.Equal(t, test.want, cut(test.text, test.n), "%q to %d", test.text, test.n)
	}
}

func TestSecretHeader(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Authorization", "authorization", "AUTHORIZATION", "Proxy-Authorization", "X-Authorization-Basic",
		"Auth", "X-Auth", "x_auth", "X-Auth-User", "Auth-Type",
		"Token", "X-Token", "X-Auth-Token", "X-CSRF-Token", "X-GitLab-Token", "token_type",
		"Secret", "X-Secret", "X-Secret-Token", "client_secret", "X-Hub-Secret-Id",
		"Password", "X-Password", "X_PASSWD", "passwd",
		"Cookie", "Set-Cookie", "X-Cookie", "Cookie-2",
		"Credential", "X-Credential", "X-Amz-Credential",
		"ApiKey", "apikey", "X-ApiKey", "X-APIKEY-2",
		"Api-Key", "X-API-Key", "x_api_key", "x-api_key", "Api--Key", "api-key-id", "Ocp-Api-Key",
		"Access-Key", "x_access_key", "X-Access-Key-Id", "-access-key-",
	} {
		assert.True(t, secretHeader(name), "%s", name)
	}
	for _, name := range []string{
		"", "-", "_", "X-Riverhook-Delivery-Id", "Content-Type", "Accept", "User-Agent", "Idempotency-Key",
		"X-Author", "Author", "Authority", "X-Authorized", "X-Authentication", "WWW-Authenticate", "OAuth", "X-OAuth2",
		"Tokens", "X-Tokenizer", "X-Token2", "XToken", "Secrets", "X-Secretary", "Passwords", "Passwordless",
		"Cookies", "X-Cookies-Policy", "Cookie2", "Credentials", "Access-Control-Allow-Credentials", "ApiKeys", "MyApiKey",
		"X-Key", "Key", "Key-Api", "Api", "X-Api-Version", "Api-Secondary-Key", "Api.Key", "X-Token.Id", "Api-Keys",
		"Access", "Access-Control-Request-Method", "Access-Log-Key", "Accesskey", "Sec-WebSocket-Key", "Monkey-Access",
	} {
		assert.False(t, secretHeader(name), "%s", name)
	}
}
