package delivery_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
)

func TestJobArgsFromJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]delivery.JobArgs{
		`{"claim": 0, "delivery_id": 1}`:                     {Claim: 0, DeliveryID: 1},
		`{"claim": 12, "delivery_id": 9223372036854775807}`:  {Claim: 12, DeliveryID: 9223372036854775807},
		`{"claim":3,"delivery_id":4}`:                        {Claim: 3, DeliveryID: 4},
		`{"delivery_id": 4, "claim": 3}`:                     {Claim: 3, DeliveryID: 4},
		`{"claim": 3, "delivery_id": 4, "more": {"a": "}"}}`: {Claim: 3, DeliveryID: 4},
		`{"claim": 3}`: {Claim: 3},
		`{}`:           {},
	} {
		var got delivery.JobArgs
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{`{"claim": 1, "delivery_id": 9223372036854775808}`, `{"claim": "1", "delivery_id": 2}`, `{"claim": 1, "delivery_id": }`, `{"claim": 1.5, "delivery_id": 2}`, `[]`, `7`} {
		assert.Error(t, json.Unmarshal([]byte(text), new(delivery.JobArgs)), text)
	}
}
