package delivery_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
)

func TestParseStatusSet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		list    string
		text    string // String of the result
		in, out []int
	}{
		{"", "", nil, []int{0, 200, 300, 408, 500, 599}},
		{" ", "", nil, []int{0, 200, 300, 500}},
		{",", "", nil, []int{0, 200, 300, 500}},
		{"300", "300", []int{300}, []int{0, 299, 301}},
		{"599", "599", []int{599}, []int{598, 600}},
		{"408", "408", []int{408}, []int{407, 409}},
		{"300-599", "300-599", []int{300, 301, 408, 598, 599}, []int{-300, 0, 200, 299, 600, 1000}},
		{"500-500", "500", []int{500}, []int{499, 501}},
		{"502-503", "502-503", []int{502, 503}, []int{501, 504}},
		{"408,429,500-599", "408,429,500-599", []int{408, 429, 500, 550, 599}, []int{407, 409, 428, 430, 499, 600}},
		{" 408 , 500 - 502 ,", "408,500-502", []int{408, 500, 501, 502}, []int{407, 409, 499, 503}},
		{",,408,,", "408", []int{408}, []int{407, 409}},
		{"500-510,505-520", "500-510,505-520", []int{500, 505, 510, 515, 520}, []int{499, 521}},
		{"503,503", "503,503", []int{503}, []int{502, 504}},
		{"503,429", "503,429", []int{429, 503}, []int{430, 502}},
		{"\t408\n,\r\n429", "408,429", []int{408, 429}, []int{410}},
	} {
		t.Run(test.list, func(t *testing.T) {
			t.Parallel()
			set, err := delivery.ParseStatusSet(test.list)
			require.NoError(t, err)
			assert.Equal(t, test.text, set.String())
			for _, status := range test.in {
				assert.True(t, set.Contains(status), "%d", status)
			}
			for _, status := range test.out {
				assert.False(t, set.Contains(status), "%d", status)
			}
			again, err := delivery.ParseStatusSet(set.String())
			require.NoError(t, err)
			assert.Equal(t, set, again, "what String writes is read back as the same set")
		})
	}
}

func TestParseStatusSetRejects(t *testing.T) {
	t.Parallel()
	for _, item := range []string{
		"abc", "4xx", "4 08", "408.0", "0x1f4", "4_08", "५००", "\x00", "408;429", "408 429",
		"0", "-1", "99", "100", "200", "204", "299", "600", "1000", "99999999999999999999",
		"-", "500-", "-500", "500--599", "500-599-600", "500-abc", "abc-599", "500–599",
		"299-300", "200-299", "200-599", "599-600", "300-600", "500-499", "599-300", "0-599", "500-99999999999999999999",
	} {
		for _, list := range []string{item, "408," + item, item + ",408", " " + item + " "} {
			set, err := delivery.ParseStatusSet(list)
			require.Error(t, err, "%q", list)
			assert.Contains(t, err.Error(), "300", "it says what is wanted")
			assert.Equal(t, delivery.StatusSet{}, set, "nothing is taken of a list that has an error: %q", list)
		}
	}
}

func TestParseStatusSetNamesTheBadItem(t *testing.T) {
	t.Parallel()
	_, err := delivery.ParseStatusSet("408, 4zz ,500")
	require.Error(t, err)
	assert.Contains(t, err.Error(), `"4zz"`)
	assert.NotContains(t, err.Error(), "408")
}

func TestStatusSetZeroValueIsEmpty(t *testing.T) {
	t.Parallel()
	var set delivery.StatusSet
	for status := -1; status <= 1000; status++ {
		assert.False(t, set.Contains(status), "%d", status)
	}
	assert.Empty(t, set.String())
}

func TestDefaultRetryable(t *testing.T) {
	t.Parallel()
	set := delivery.DefaultRetryable()
	for status := -1; status <= 1000; status++ {
		assert.Equal(t, statusRetried[status], set.Contains(status), "%d", status)
	}
	again, err := delivery.ParseStatusSet(set.String())
	require.NoError(t, err)
	assert.Equal(t, set, again)
}
