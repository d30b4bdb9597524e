package credential_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
)

// rawKey is a key that differs by n.
func rawKey(n byte) []byte {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = n + byte(i)*37
	}
	return raw
}

func textKey(n byte) string { return base64.StdEncoding.EncodeToString(rawKey(n)) }

func ring(t testing.TB, numbers ...byte) *credential.Keyring {
	t.Helper()
	texts := []string{}
	for _, n := range numbers {
		texts = append(texts, textKey(n))
	}
	r, err := credential.ParseKeyring(strings.Join(texts, ","))
	require.NoError(t, err)
	return r
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	r := ring(t, 1)
	for _, plain := range [][]byte{nil, {}, {0}, []byte("hunter2"), bytes.Repeat([]byte("x"), 1<<20)} {
		for _, context := range [][]string{nil, {""}, {"uuid"}, {"uuid", "org"}, {"uuid", "", "é\x00"}} {
			sealed, err := r.Seal(plain, context...)
			require.NoError(t, err)
			assert.Len(t, sealed, 1+4+12+len(plain)+16)
			assert.Equal(t, byte(1), sealed[0])
			if len(plain) > 4 {
				assert.NotContains(t, string(sealed), string(plain))
			}
			opened, err := r.Open(sealed, context...)
			require.NoError(t, err)
			assert.Equal(t, string(plain), string(opened))

			again, err := r.Seal(plain, context...)
			require.NoError(t, err)
			assert.NotEqual(t, sealed, again, "each cell has a nonce of its own")
			assert.Equal(t, sealed[:5], again[:5], "version and key id are the same")
		}
	}
}

// Cells that version 1 sealed open for ever. The first was sealed by another program, from the layout that keyring.go
// gives: Python's cryptography, AESGCM(key).encrypt(nonce, plain, associated).
func TestOpenVersion1(t *testing.T) {
	t.Parallel()
	const plain = `{"v":1,"type":"api_key","header":"X-API-Key","secret":"hunter2"}`
	r := ring(t, 1)
	for _, cell := range []string{
		goldenIndependent,
		goldenOwn,
	} {
		sealed, err := hex.DecodeString(cell)
		require.NoError(t, err)
		opened, err := r.Open(sealed, "018f5e1c-7b1a-7c3e-9f00-2c5d6b7a8e90", "default")
		require.NoError(t, err)
		assert.JSONEq(t, plain, string(opened))
		assert.True(t, r.IsCurrent(sealed))
		assert.False(t, ring(t, 2, 1).IsCurrent(sealed))
	}
}

func TestOpenUnderAnotherContext(t *testing.T) {
	t.Parallel()
	r := ring(t, 1)
	for _, sealedFor := range [][]string{nil, {""}, {"ab", "c"}} {
		sealed, err := r.Seal([]byte("hunter2"), sealedFor...)
		require.NoError(t, err)
		for _, context := range [][]string{
			nil, {""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {"", "abc"}, {"c", "ab"}, {"ab", "c", ""}, {"ab"}, {"AB", "c"},
			{"ab\x00\x00\x00\x00\x00\x00\x00\x01c"},
		} {
			opened, err := r.Open(sealed, context...)
			if strings.Join(context, "|") == strings.Join(sealedFor, "|") && len(context) == len(sealedFor) {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, credential.ErrOpen, "%q %q", sealedFor, context)
			assert.Nil(t, opened)
		}
	}
}

func TestOpenTampered(t *testing.T) {
	t.Parallel()
	r := ring(t, 1)
	sealed, err := r.Seal([]byte("hunter2"), "uuid", "org")
	require.NoError(t, err)
	for i := range sealed {
		for bit := range 8 {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1 << bit
			opened, err := r.Open(changed, "uuid", "org")
			require.Error(t, err, "byte %d", i)
			assert.Nil(t, opened)
			want := credential.ErrOpen
			if i >= 1 && i < 5 {
				want = credential.ErrUnknownKey
			}
			require.ErrorIs(t, err, want, "byte %d", i)
		}
	}
	for n := range sealed {
		_, err := r.Open(sealed[:n], "uuid", "org")
		require.ErrorIs(t, err, credential.ErrOpen, "cut to %d bytes", n)
	}
	_, err = r.Open(append(bytes.Clone(sealed), 0), "uuid", "org")
	require.ErrorIs(t, err, credential.ErrOpen)
	_, err = r.Open(append([]byte{2}, sealed[1:]...), "uuid", "org")
	require.ErrorContains(t, err, "version 2")

	opened, err := r.Open(sealed, "uuid", "org")
	require.NoError(t, err, "opening and failing to has not changed it")
	assert.Equal(t, "hunter2", string(opened))
}

func TestRotation(t *testing.T) {
	t.Parallel()
	before, both, after := ring(t, 1), ring(t, 2, 1), ring(t, 2)
	old, err := before.Seal([]byte("hunter2"), "uuid")
	require.NoError(t, err)
	opened, err := both.Open(old, "uuid")
	require.NoError(t, err)
	assert.True(t, before.IsCurrent(old))
	assert.False(t, both.IsCurrent(old))
	_, err = after.Open(old, "uuid")
	require.ErrorIs(t, err, credential.ErrUnknownKey)
	assert.Contains(t, err.Error(), hex.EncodeToString(old[1:5]), "it says which key is missing")

	resealed, err := both.Seal(opened, "uuid")
	require.NoError(t, err)
	assert.True(t, both.IsCurrent(resealed))
	assert.True(t, after.IsCurrent(resealed))
	opened, err = after.Open(resealed, "uuid")
	require.NoError(t, err)
	assert.Equal(t, "hunter2", string(opened))
	_, err = before.Open(resealed, "uuid")
	require.ErrorIs(t, err, credential.ErrUnknownKey)
}

func TestIsCurrentOfWhatIsNoCell(t *testing.T) {
	t.Parallel()
	r := ring(t, 1)
	sealed, err := r.Seal(nil)
	require.NoError(t, err)
	for _, cell := range [][]byte{nil, {}, {1}, sealed[:4], append([]byte{2}, sealed[1:]...)} {
		assert.False(t, r.IsCurrent(cell))
	}
	var none *credential.Keyring
	assert.False(t, none.IsCurrent(sealed))
}

func TestNoKey(t *testing.T) {
	t.Parallel()
	sealed, err := ring(t, 1).Seal([]byte("x"))
	require.NoError(t, err)
	rings := []*credential.Keyring{nil, {}}
	for _, setting := range []string{"", " ", "\n", "\t \r\n"} {
		r, err := credential.ParseKeyring(setting)
		require.NoError(t, err)
		rings = append(rings, r)
	}
	for _, r := range rings {
		assert.True(t, r.IsEmpty())
		_, err := r.Seal([]byte("x"))
		require.ErrorIs(t, err, credential.ErrNoKey)
		assert.Contains(t, err.Error(), "RIVERHOOK_SECRET_KEY")
		assert.Contains(t, err.Error(), "openssl rand -base64 32")
		assert.Contains(t, err.Error(), "head -c 32 /dev/urandom | base64")
		_, err = r.Open(sealed)
		require.ErrorIs(t, err, credential.ErrNoKey)
		_, err = r.Open(nil)
		require.ErrorIs(t, err, credential.ErrNoKey)
	}
	assert.False(t, ring(t, 1).IsEmpty())
	for _, other := range []error{credential.ErrUnknownKey, credential.ErrOpen} {
		require.NotErrorIs(t, credential.ErrNoKey, other)
	}
	require.NotErrorIs(t, credential.ErrUnknownKey, credential.ErrOpen)
}

func TestParseKeyring(t *testing.T) {
	t.Parallel()
	sealed, err := ring(t, 1).Seal([]byte("hunter2"))
	require.NoError(t, err)
	for name, setting := range map[string]string{
		"standard":           textKey(1),
		"without padding":    strings.TrimRight(textKey(1), "="),
		"URL alphabet":       base64.URLEncoding.EncodeToString(rawKey(1)),
		"URL, no padding":    base64.RawURLEncoding.EncodeToString(rawKey(1)),
		"a line":             textKey(1) + "\n",
		"white space":        " " + textKey(1) + "\r\n",
		"second":             textKey(2) + "," + textKey(1),
		"spaces and a break": textKey(2) + " ,\n " + textKey(1),
		"twice":              textKey(1) + "," + textKey(1),
		"many":               textKey(5) + "," + textKey(4) + "," + textKey(3) + "," + textKey(1),
	} {
		r, err := credential.ParseKeyring(setting)
		require.NoError(t, err, name)
		opened, err := r.Open(sealed)
		require.NoError(t, err, name)
		assert.Equal(t, "hunter2", string(opened), name)
	}
}

func TestParseKeyringRejects(t *testing.T) {
	t.Parallel()
	good := textKey(1)
	for name, test := range map[string]struct{ setting, want string }{
		"31 bytes":          {base64.StdEncoding.EncodeToString(rawKey(1)[:31]), "the key is 31 bytes"},
		"33 bytes":          {base64.StdEncoding.EncodeToString(append(rawKey(1), 0)), "the key is 33 bytes"},
		"hexadecimal":       {hex.EncodeToString(rawKey(1)), "the key is 48 bytes"},
		"a passphrase":      {"correct horse battery staple", "the key is not base64"},
		"punctuation":       {"hunter2!hunter2!hunter2!hunter2!", "the key is not base64"},
		"padding only":      {"====", "the key is 0 bytes"},
		"a break inside":    {good[:10] + "\n" + good[10:], "the key is not base64"},
		"a space inside":    {good[:10] + " " + good[10:], "the key is not base64"},
		"bits behind":       {good[:42] + "B=", "the key is not base64"},
		"two keys, a space": {good + " " + good, "the key is not base64"},
		"semicolon":         {good + ";" + good, "the key is not base64"},
		"comma":             {",", "key 1 of 2 is empty"},
		"first is empty":    {"," + good, "key 1 of 2 is empty"},
		"last is empty":     {good + ",", "key 2 of 2 is empty"},
		"second is short":   {good + "," + good[:20] + "," + good, "key 2 of 3 is 15 bytes"},
		"quoted":            {`"` + good + `"`, "the key is not base64"},
		"not UTF-8":         {"\xff" + good, "the key is not base64"},
		"with its name":     {"RIVERHOOK_SECRET_KEY=" + good, "the key is not base64"},
	} {
		r, err := credential.ParseKeyring(test.setting)
		require.ErrorContains(t, err, test.want, name)
		assert.Nil(t, r, name)
		assert.Contains(t, err.Error(), "RIVERHOOK_SECRET_KEY", name)
		assert.Contains(t, err.Error(), "openssl rand -base64 32", name)
		assert.Contains(t, err.Error(), "head -c 32 /dev/urandom | base64", name)
		for _, leak := range []string{good[:6], good[10:16], "hunter2", "horse", hex.EncodeToString(rawKey(1))[:6]} {
			assert.NotContains(t, err.Error(), leak, name)
		}
	}
}

func TestKeyringCannotPrint(t *testing.T) {
	t.Parallel()
	r := ring(t, 'a')
	raw := rawKey('a')
	leaks := []string{
		textKey('a')[:8], string(raw[:6]), hex.EncodeToString(raw[:6]), strings.ToUpper(hex.EncodeToString(raw[:6])), "97 134 171 208", "0x61, 0x86, 0xab",
	}
	for _, value := range []any{
		r, *r, struct{ r *credential.Keyring }{r}, struct{ r credential.Keyring }{*r}, struct{ R credential.Keyring }{*r},
		[]*credential.Keyring{r}, map[string]credential.Keyring{"k": *r}, struct{ r any }{*r},
	} {
		assertSilent(t, value, leaks...)
	}
	assert.Equal(t, "[REDACTED]", r.String())
	assert.Equal(t, "[REDACTED]", r.GoString())
	assert.Equal(t, "[REDACTED]", r.LogValue().String())
	text, err := r.MarshalText()
	require.NoError(t, err)
	assert.Equal(t, "[REDACTED]", string(text))
}

func FuzzOpen(f *testing.F) {
	r := ring(f, 1, 2)
	made := map[string]bool{}
	for _, cell := range []string{goldenIndependent, goldenOwn} {
		sealed, err := hex.DecodeString(cell)
		require.NoError(f, err)
		made[string(sealed)] = true
		f.Add(sealed, "018f5e1c-7b1a-7c3e-9f00-2c5d6b7a8e90", "default")
		f.Add(sealed[:20], "", "")
	}
	f.Add([]byte{}, "", "")
	f.Add([]byte{1, 0, 0, 0, 0}, "", "")
	f.Fuzz(func(t *testing.T, cell []byte, uuid, organization string) {
		before := bytes.Clone(cell)
		plain, err := r.Open(cell, uuid, organization)
		assert.Equal(t, before, cell)
		r.IsCurrent(cell)
		if err == nil {
			assert.True(t, made[string(cell)], "only what was sealed opens")
			assert.Equal(t, "018f5e1c-7b1a-7c3e-9f00-2c5d6b7a8e90 default", uuid+" "+organization)
			return
		}
		assert.Nil(t, plain)
		assert.True(t, errors.Is(err, credential.ErrOpen) || errors.Is(err, credential.ErrUnknownKey))

		sealed, err := r.Seal(cell, uuid, organization)
		require.NoError(t, err)
		opened, err := r.Open(sealed, uuid, organization)
		require.NoError(t, err)
		assert.Equal(t, string(cell), string(opened))
	})
}
