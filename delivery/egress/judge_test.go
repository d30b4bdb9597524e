package egress

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type judged struct {
	line int
	addr netip.Addr
	want Verdict
}

// addressTable reads testdata/egress/addresses.txt.
func addressTable(t testing.TB) []judged {
	t.Helper()
	file, err := os.ReadFile("../../testdata/egress/addresses.txt")
	require.NoError(t, err)
	var table []judged
	for i, line := range strings.Split(string(file), "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		require.GreaterOrEqual(t, len(fields), 3, "line %d: verdict, address, class", i+1)
		require.Contains(t, []string{"allow", "deny"}, fields[0], "line %d", i+1)
		addr, err := netip.ParseAddr(fields[1])
		require.NoError(t, err, "line %d", i+1)
		table = append(table, judged{
			line: i + 1, addr: addr,
			want: Verdict{Allowed: fields[0] == "allow", Class: Class(strings.Join(fields[2:], " "))},
		})
	}
	require.Greater(t, len(table), 120)
	return table
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, row := range addressTable(t) {
		where := fmt.Sprintf("addresses.txt line %d: %s", row.line, row.addr)
		assert.Equal(t, row.want, Judge(row.addr), where)
		assert.Equal(t, row.want, new(Guard).Judge(netip.AddrPortFrom(row.addr, 443)), where)
		assert.Equal(t, row.want, (*Guard)(nil).Judge(netip.AddrPortFrom(row.addr, 443)), where)
	}
	assert.Equal(t, Verdict{Class: ClassUnknown}, Judge(netip.Addr{}))
	assert.False(t, Verdict{}.Allowed, "the zero verdict refuses")
}

// Whoever adds a range, or a new version of the library that does, also says in the table what is just outside of it.
func TestAddressTableHasEveryBoundary(t *testing.T) {
	t.Parallel()
	has := make(map[netip.Addr]bool)
	for _, row := range addressTable(t) {
		has[row.addr] = true
	}
	prefixes := slices.Concat(ssrf.IPv4DeniedPrefixes, ssrf.IPv6DeniedPrefixes, []netip.Prefix{
		ssrf.IPv6GlobalUnicast, nat64, compatible,
		netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("5f00::/16"),
	})
	for _, r := range ranges {
		prefixes = append(prefixes, r.prefix)
	}
	for _, prefix := range prefixes {
		first, last := prefix.Addr(), lastOf(prefix)
		for _, addr := range []netip.Addr{first.Prev(), first, last, last.Next()} {
			if addr.IsValid() {
				assert.True(t, has[addr], "%s: the table lacks %s", prefix, addr)
			}
		}
	}
}

// lastOf is the last address of p.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func FuzzJudge(f *testing.F) {
	for _, row := range addressTable(f) {
		f.Add(row.addr.AsSlice(), row.addr.Zone())
	}
	f.Add([]byte(nil), "")
	f.Fuzz(func(t *testing.T, bytes []byte, zone string) {
		addr, ok := netip.AddrFromSlice(bytes)
		verdict := Judge(addr)
		assert.Equal(t, verdict.Allowed, verdict.Class == ClassPublic)
		assert.NotEmpty(t, verdict.Class)
		assert.Equal(t, verdict, Judge(addr.WithZone(zone)), "a zone changes nothing")
		if !ok {
			assert.False(t, verdict.Allowed)
			return
		}
		assert.Equal(t, verdict, new(Guard).Judge(netip.AddrPortFrom(addr, 1)))
		if addr = addr.Unmap(); addr.Is4() {
			assert.Equal(t, verdict, Judge(netip.AddrFrom16(addr.As16())), "mapped")
			inside := nat64.Addr().As16()
			copy(inside[12:], addr.AsSlice())
			assert.Equal(t, verdict, Judge(netip.AddrFrom16(inside)), "NAT64")
		}
		if verdict.Allowed {
			assert.True(t, addr.IsGlobalUnicast())
			assert.False(t, addr.IsPrivate())
			assert.True(t, addr.Is4() || nat64.Contains(addr) || ssrf.IPv6GlobalUnicast.Contains(addr))
		}
	})
}
