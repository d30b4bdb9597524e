package credential_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
)

const hunter = "hunter2-é"

// spellings are what a leak of hunter would look like under one verb or another.
var spellings = []string{
	"hunter2", "68756e746572", "68 75 6e", "68 75 6E", "68756E746572", "0x68 0x75 0x6e", "0X68 0X75 0X6E", "0x68, 0x75, 0x6e", "104 117 110", "1101000 1110101",
	"150 165 156", "U+0068 U+0075", "h u n", "'h' 'u'", "aHVudGVy",
}

var verbs = []string{
	"v", "+v", "#v", "s", "+s", "q", "+q", "#q", "x", "X", "# x", "#X", "d", "t", "b", "o", "O", "c", "U", "#U", "e", "g", "z", "20s", "-3.2q", "p", "T", "w",
}

// ownVerb are those that fmt does not leave to a Formatter.
var ownVerb = map[string]bool{"p": true, "T": true, "w": true}

type holder struct {
	Secret  credential.Secret
	Pointer *credential.Secret
	Slice   []credential.Secret
	Array   [1]credential.Secret
	Map     map[string]credential.Secret
	Any     any
	Nested  struct{ Secret credential.Secret }
	hidden  credential.Secret
	pointer *credential.Secret
	inner   struct{ hidden credential.Secret }
	all     []*credential.Secret
	byName  map[string]credential.Secret
	any     any
}

func held(s credential.Secret) holder {
	h := holder{
		Secret: s, Pointer: &s, Slice: []credential.Secret{s}, Array: [1]credential.Secret{s}, Map: map[string]credential.Secret{"k": s}, Any: s,
		hidden: s, pointer: &s, all: []*credential.Secret{&s}, byName: map[string]credential.Secret{"k": s}, any: &s,
	}
	h.Nested.Secret, h.inner.hidden = s, s
	return h
}

// assertSilent prints value in every way there is.
func assertSilent(t *testing.T, value any, leaks ...string) {
	t.Helper()
	texts := []string{fmt.Sprint(value), fmt.Sprintln(value)}
	for _, verb := range verbs {
		texts = append(texts, fmt.Sprintf("%"+verb, value), fmt.Errorf("%"+verb, value).Error(), fmt.Sprintf("%[1]*"+verb, value))
	}
	noVerb := "none"
	texts = append(texts, fmt.Sprintf(noVerb+"", value)) // fmt appends what it was given too much
	if text, err := json.Marshal(value); err == nil {
		texts = append(texts, string(text))
	}
	if text, err := xml.Marshal(value); err == nil {
		texts = append(texts, string(text))
	}
	var log bytes.Buffer
	for _, logger := range []*slog.Logger{slog.New(slog.NewJSONHandler(&log, nil)), slog.New(slog.NewTextHandler(&log, nil))} {
		logger.Info("text", "value", value, slog.Group("group", slog.Any("value", value)))
		logger.With("value", value).Info("text")
	}
	texts = append(texts, log.String())
	for _, text := range texts {
		for _, leak := range leaks {
			require.NotContains(t, text, leak)
		}
	}
}

func TestSecretCannotPrint(t *testing.T) {
	t.Parallel()
	secret := credential.NewSecret(hunter)
	for _, verb := range verbs {
		if ownVerb[verb] {
			continue
		}
		assert.Equal(t, "[REDACTED]", fmt.Sprintf("%"+verb, secret), verb)
		assert.Equal(t, "[REDACTED]", fmt.Sprintf("%"+verb, &secret), verb)
		assert.Equal(t, "[REDACTED]", fmt.Sprintf("%"+verb, credential.Secret{}), "whether there is one is not told either")
	}
	h := held(secret)
	for _, value := range []any{
		secret, &secret, h, &h, []any{secret, &secret, h}, map[string]any{"k": h}, struct{ v any }{h}, []holder{h}, []*holder{&h},
		map[string]*holder{"k": &h}, struct{ v *holder }{&h}, fmt.Errorf("with %v", h),
	} {
		assertSilent(t, value, spellings...)
	}
	assert.Equal(t, "[REDACTED]", secret.String())
	assert.Equal(t, "[REDACTED]", secret.GoString())
	assert.Equal(t, "[REDACTED]", secret.LogValue().String())
	text, err := secret.MarshalText()
	require.NoError(t, err)
	assert.Equal(t, "[REDACTED]", string(text))
	text, err = json.Marshal(map[string]any{"a": secret, "b": &secret, "c": []credential.Secret{secret}})
	require.NoError(t, err)
	assert.JSONEq(t, `{"a":"[REDACTED]","b":"[REDACTED]","c":["[REDACTED]"]}`, string(text))
}

func TestSecretReveal(t *testing.T) {
	t.Parallel()
	assert.Equal(t, hunter, credential.NewSecret(hunter).Reveal())
	assert.False(t, credential.NewSecret(" ").IsZero())
	assert.True(t, credential.NewSecret("").IsZero())
	assert.True(t, credential.Secret{}.IsZero())
	assert.Empty(t, credential.Secret{}.Reveal())
}
