package signing_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/signing"
)

func encoded(prefix string, raw []byte) string {
	return prefix + base64.StdEncoding.EncodeToString(raw)
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 50 {
		for prefix, key := range map[string]signing.Key{"whsec_": signing.Generate(), "whsk_": signing.GenerateEd25519()} {
			text := key.Reveal()
			require.True(t, strings.HasPrefix(text, prefix))
			require.False(t, seen[text], "no key is made twice")
			seen[text] = true
			again, err := signing.ParseKey(text)
			require.NoError(t, err)
			assert.Equal(t, text, again.Reveal())
			assert.Equal(t, key.Algorithm(), again.Algorithm())
			assert.Equal(t, signing.Sign(testID, noon, nil, key), signing.Sign(testID, noon, nil, again))
		}
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing.Generate().Reveal(), "whsec_"))
	require.NoError(t, err)
	assert.Len(t, raw, 32)

	assert.Equal(t, signing.AlgorithmHMACSHA256, signing.Generate().Algorithm())
	assert.Equal(t, signing.AlgorithmEd25519, signing.GenerateEd25519().Algorithm())
	_, ok := signing.Generate().Public()
	assert.False(t, ok)
	public, ok := signing.GenerateEd25519().Public()
	assert.True(t, ok)
	assert.True(t, strings.HasPrefix(public, "whpk_"))
}

func TestZeroKey(t *testing.T) {
	t.Parallel()
	var key signing.Key
	assert.True(t, key.IsZero())
	assert.False(t, signing.Generate().IsZero())
	assert.False(t, signing.GenerateEd25519().IsZero())
	assert.Empty(t, key.Reveal())
	assert.Equal(t, signing.AlgorithmUnknown, key.Algorithm())
	_, ok := key.Public()
	assert.False(t, ok)
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	raw := make([]byte, 64)
	for i := range raw {
		raw[i] = byte(0xfb + 7*i) // has + and / in base64
	}
	pair := ed25519.NewKeyFromSeed(raw[:32])
	for name, test := range map[string]struct{ text, want string }{
		"24 bytes":          {encoded("whsec_", raw[:24]), encoded("whsec_", raw[:24])},
		"25 bytes":          {encoded("whsec_", raw[:25]), encoded("whsec_", raw[:25])},
		"32 bytes":          {encoded("whsec_", raw[:32]), encoded("whsec_", raw[:32])},
		"64 bytes":          {encoded("whsec_", raw), encoded("whsec_", raw)},
		"without padding":   {strings.TrimRight(encoded("whsec_", raw[:32]), "="), encoded("whsec_", raw[:32])},
		"a line":            {encoded("whsec_", raw[:32]) + "\n", encoded("whsec_", raw[:32])},
		"white space":       {" \t" + encoded("whsec_", raw[:32]) + "\r\n", encoded("whsec_", raw[:32])},
		"private":           {encoded("whsk_", pair), encoded("whsk_", pair)},
		"private, the seed": {encoded("whsk_", raw[:32]), encoded("whsk_", pair)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := signing.ParseKey(test.text)
			require.NoError(t, err)
			assert.Equal(t, test.want, key.Reveal())
		})
	}
}

func TestParseKeyRejects(t *testing.T) {
	t.Parallel()
	raw := []byte("hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2")
	pair := ed25519.NewKeyFromSeed(raw[:32])
	stranger := append(append([]byte{}, pair[:32]...), ed25519.NewKeyFromSeed(raw[1:33])[32:]...)
	good := encoded("", raw[:32])
	for name, text := range map[string]string{
		"empty":                       "",
		"white space":                 " \n",
		"no prefix":                   good,
		"another prefix":              "whsecret_" + good,
		"upper case":                  "WHSEC_" + good,
		"prefix only":                 "whsec_",
		"private prefix only":         "whsk_",
		"public":                      encoded("whpk_", pair[32:]),
		"one too short":               encoded("whsec_", raw[:23]),
		"one too long":                encoded("whsec_", raw[:65]),
		"url alphabet":                encoded("whsec_", raw[:21]) + "-_-_",
		"two lines":                   "whsec_" + good[:20] + "\n" + good[20:],
		"two lines, carriage return":  "whsec_" + good[:20] + "\r" + good[20:],
		"a space inside":              "whsec_" + good[:20] + " " + good[20:],
		"two keys":                    "whsec_" + good + " whsec_" + good,
		"text behind":                 "whsec_" + good + "hunter2",
		"NUL":                         "whsec_" + good + "\x00",
		"bits behind the last byte":   "whsec_" + good[:42] + "B=",
		"private, 31 bytes":           encoded("whsk_", raw[:31]),
		"private, 33 bytes":           encoded("whsk_", raw[:33]),
		"private, 63 bytes":           encoded("whsk_", pair[:63]),
		"private, 65 bytes":           encoded("whsk_", append(append([]byte{}, pair...), 0)),
		"private with another public": encoded("whsk_", stranger),
		"not UTF-8":                   "whsec_\xff" + good,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := signing.ParseKey(text)
			require.Error(t, err)
			assert.True(t, key.IsZero())
			assert.True(t, strings.HasPrefix(err.Error(), "signing: "), err.Error())
			assert.NotContains(t, err.Error(), "hunter2")
			secret := strings.TrimSpace(text)
			for _, prefix := range []string{"whsec_", "whsk_", "whpk_"} {
				secret = strings.TrimPrefix(secret, prefix)
			}
			for i := 0; i+6 <= len(secret); i++ {
				require.NotContains(t, err.Error(), secret[i:i+6], "no part of the key is in the error")
			}
		})
	}
}

type holder struct {
	Key     signing.Key
	Pointer *signing.Key
	hidden  signing.Key
	inner   *signing.Key
	Slice   []signing.Key
	Map     map[string]signing.Key
	Any     any
}

func TestKeyCannotPrint(t *testing.T) {
	t.Parallel()
	for _, key := range []signing.Key{signing.Generate(), signing.GenerateEd25519()} {
		raw, err := base64.StdEncoding.DecodeString(key.Reveal()[strings.Index(key.Reveal(), "_")+1:])
		require.NoError(t, err)
		secrets := []string{
			key.Reveal(), base64.StdEncoding.EncodeToString(raw)[:12], string(raw[:8]),
			fmt.Sprintf("%x", raw[:8]), fmt.Sprintf("%X", raw[:8]),
			strings.Trim(fmt.Sprintf("%d", raw[:4]), "[]"), fmt.Sprintf("0x%x, 0x%x, 0x%x", raw[0], raw[1], raw[2]),
		}
		held := holder{key, &key, key, &key, []signing.Key{key}, map[string]signing.Key{"k": key}, key}
		texts := []string{}
		for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "d", "t", "b", "o", "c", "U", "e", "p", "T", "z", "10s", "-3.2q", "# x", "w"} {
			assertPlain := verb != "T" && verb != "p" && verb != "w" // fmt handles these three itself
			if assertPlain {
				assert.Equal(t, "[REDACTED]", fmt.Sprintf("%"+verb, key), verb)
				assert.Equal(t, "[REDACTED]", fmt.Sprintf("%"+verb, &key), verb)
			}
			for _, value := range []any{key, &key, held, &held, []any{key, &held}, map[string]any{"k": held}} {
				texts = append(texts, fmt.Sprintf("%"+verb, value), fmt.Errorf("%"+verb, value).Error())
			}
		}
		for _, value := range []any{key, &key, held, &held} {
			text, err := json.Marshal(value)
			require.NoError(t, err)
			var log bytes.Buffer
			slog.New(slog.NewJSONHandler(&log, nil)).Info("a key", "key", value)
			slog.New(slog.NewTextHandler(&log, nil)).Info("a key", "key", value)
			texts = append(texts, string(text), log.String())
			assert.Contains(t, string(text), `"[REDACTED]"`)
			assert.Contains(t, log.String(), "[REDACTED]")
		}
		text, err := key.MarshalText()
		require.NoError(t, err)
		texts = append(texts, string(text), key.String(), key.GoString(), key.LogValue().String())
		for _, text := range texts {
			for _, secret := range secrets {
				require.NotContains(t, text, secret)
			}
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(signing.Generate().Reveal())
	f.Add(signing.GenerateEd25519().Reveal())
	f.Add("whpk_AAAA")
	f.Add("whsec_====")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := signing.ParseKey(text)
		if err != nil {
			assert.True(t, key.IsZero())
			return
		}
		again, err := signing.ParseKey(key.Reveal())
		require.NoError(t, err)
		assert.Equal(t, key.Reveal(), again.Reveal())
		assert.NotEmpty(t, signing.Sign(testID, noon, nil, key))
	})
}
