package egress

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func prefixes(t *testing.T, list string) []netip.Prefix {
	t.Helper()
	parsed, err := ParsePrefixes(list)
	require.NoError(t, err)
	return parsed
}

func TestGuardPrecedence(t *testing.T) {
	t.Parallel()
	guard := NewGuard(Config{
		Allow: prefixes(t, "10.0.0.0/8, 127.0.0.1, fd00::/8, 64:ff9b::a01:203, ::ffff:172.16.0.0/108"),
		Deny:  prefixes(t, "10.9.0.0/16, 93.184.216.0/24, 2606:4700::/32, ::ffff:1.1.1.1"),
		Never: []netip.AddrPort{
			netip.MustParseAddrPort("127.0.0.1:8090"), netip.MustParseAddrPort("[::ffff:10.0.0.5]:5432"),
			netip.MustParseAddrPort("10.9.0.5:5432"), netip.MustParseAddrPort("198.41.0.4:5432"),
		},
	})
	for _, test := range []struct {
		to    string
		class Class
	}{
		{"8.8.8.8:443", ClassPublic},
		{"[2620:fe::fe]:80", ClassPublic},
		{"192.168.0.1:80", ClassPrivate},
		{"127.0.0.2:80", ClassLoopback},

		{"10.1.2.3:80", ClassAllowed},
		{"127.0.0.1:80", ClassAllowed},
		{"[::ffff:10.1.2.3]:80", ClassAllowed},
		{"[fd12::1]:80", ClassAllowed},
		{"[fd12::1%eth0]:80", ClassAllowed},
		{"172.16.5.5:80", ClassAllowed}, // allowed by a mapped range
		{"172.32.0.0:80", ClassPublic},  // just outside of it
		{"[64:ff9b::a01:203]:80", ClassAllowed},
		{"[64:ff9b::a01:204]:80", ClassPrivate}, // what is allowed as IPv4 is not allowed through NAT64
		{"[::10.1.2.3]:80", ClassPrivate},

		{"10.9.1.1:80", ClassDenied}, // denied goes before allowed
		{"93.184.216.34:443", ClassDenied},
		{"[64:ff9b::93.184.216.34]:443", ClassDenied}, // nor through NAT64
		{"93.184.217.0:443", ClassPublic},
		{"[2606:4700::1]:443", ClassDenied},
		{"1.1.1.1:443", ClassDenied}, // denied by a mapped address

		{"127.0.0.1:8090", ClassOwn}, // never goes before allowed
		{"[::ffff:127.0.0.1]:8090", ClassOwn},
		{"[64:ff9b::7f00:1]:8090", ClassOwn},
		{"0.0.0.0:8090", ClassOwn}, // which the system takes for 127.0.0.1
		{"[::]:8090", ClassOwn},
		{"10.0.0.5:5432", ClassOwn},
		{"10.0.0.5:5433", ClassAllowed},
		{"10.0.0.6:5432", ClassAllowed},
		{"10.9.0.5:5432", ClassOwn},   // and before denied
		{"198.41.0.4:5432", ClassOwn}, // and before public
		{"198.41.0.4:443", ClassPublic},

		{"8.8.8.8:0", ClassPort},
		{"127.0.0.1:0", ClassPort},
	} {
		want := Verdict{Class: test.class, Allowed: test.class == ClassPublic || test.class == ClassAllowed}
		assert.Equal(t, want, guard.Judge(netip.MustParseAddrPort(test.to)), test.to)
	}
	assert.Equal(t, Verdict{Class: ClassUnknown}, guard.Judge(netip.AddrPort{}))
	assert.Equal(t, Verdict{Class: ClassUnknown}, (*Guard)(nil).Judge(netip.AddrPort{}))
	assert.Equal(t, Verdict{Class: ClassPort}, (*Guard)(nil).Judge(netip.MustParseAddrPort("8.8.8.8:0")))
}

// A listener on all addresses is reachable at each address of the machine, public ones included.
func TestNeverOnAllAddresses(t *testing.T) {
	t.Parallel()
	here := func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.ParseIP("127.0.0.1"), Mask: net.CIDRMask(8, 32)},
			&net.IPNet{IP: net.ParseIP("198.41.0.4"), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("2620:fe::fe"), Mask: net.CIDRMask(64, 128)},
			&net.UnixAddr{Name: "something else"},
		}, nil
	}
	everything := prefixes(t, "0.0.0.0/0, ::/0")
	for _, listener := range []string{"0.0.0.0:8090", "[::]:8090", "[::ffff:0.0.0.0]:8090"} {
		guard := NewGuard(Config{Allow: everything, Never: []netip.AddrPort{netip.MustParseAddrPort(listener)}})
		guard.interfaces = here
		for to, want := range map[string]Class{
			"127.0.0.1:8090":             ClassOwn,
			"127.9.9.9:8090":             ClassOwn,
			"[::1]:8090":                 ClassOwn,
			"0.0.0.0:8090":               ClassOwn,
			"[::]:8090":                  ClassOwn,
			"[::127.0.0.1]:8090":         ClassOwn,
			"198.41.0.4:8090":            ClassOwn,
			"[::ffff:198.41.0.4]:8090":   ClassOwn,
			"[64:ff9b::198.41.0.4]:8090": ClassOwn,
			"[2620:fe::fe]:8090":         ClassOwn,
			"[2620:fe::fe%eth0]:8090":    ClassOwn,

			"127.0.0.1:8091":     ClassAllowed,
			"198.41.0.4:443":     ClassAllowed,
			"198.41.0.5:8090":    ClassAllowed, // the same network, another machine
			"[2620:fe::ff]:8090": ClassAllowed,
			"10.0.0.1:8090":      ClassAllowed,
		} {
			assert.Equal(t, want, guard.Judge(netip.MustParseAddrPort(to)).Class, "%s, listening on %s", to, listener)
		}
		guard.interfaces = func() ([]net.Addr, error) { return nil, errors.New("not permitted") }
		assert.Equal(t, ClassOwn, guard.Judge(netip.MustParseAddrPort("198.41.0.5:8090")).Class, "unknown is refused")
		assert.Equal(t, ClassAllowed, guard.Judge(netip.MustParseAddrPort("198.41.0.5:443")).Class, "other ports are not its business")
	}
}

func TestNeverOnAllAddressesOfThisMachine(t *testing.T) {
	t.Parallel()
	guard := NewGuard(Config{Allow: prefixes(t, "0.0.0.0/0, ::/0"), Never: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8090")}})
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	require.NotEmpty(t, addrs)
	for _, addr := range addrs {
		ip, ok := netip.AddrFromSlice(addr.(*net.IPNet).IP)
		require.True(t, ok)
		assert.Equal(t, ClassOwn, guard.Judge(netip.AddrPortFrom(ip, 8090)).Class, addr.String())
		assert.Equal(t, ClassAllowed, guard.Judge(netip.AddrPortFrom(ip, 8091)).Class, addr.String())
	}
}

func TestParsePrefixes(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"":                            "",
		"  ":                          "",
		"10.1.0.0/16,127.0.0.1/32":    "10.1.0.0/16 127.0.0.1/32",
		" 10.1.0.0/16 ,\t127.0.0.1\n": "10.1.0.0/16 127.0.0.1/32",
		"::1":                         "::1/128",
		"0.0.0.0/0, ::/0":             "0.0.0.0/0 ::/0",
		"fd00::/8":                    "fd00::/8",
		"::ffff:10.0.0.0/104":         "10.0.0.0/8",
		"::ffff:0.0.0.0/96":           "0.0.0.0/0",
		"::ffff:127.0.0.1":            "127.0.0.1/32",
		"::ffff:7f00:1/128":           "127.0.0.1/32",
	} {
		parsed, err := ParsePrefixes(list)
		if assert.NoError(t, err, list) {
			texts := make([]string, len(parsed))
			for i, prefix := range parsed {
				texts[i] = prefix.String()
			}
			assert.Equal(t, want, strings.Join(texts, " "), list)
		}
	}
	for list, want := range map[string]string{
		"10.0.0.0/8,":         `range "": it is empty`,
		",":                   `range "": it is empty`,
		"localhost":           `range "localhost": it is neither an address nor a CIDR range`,
		"10.0.0.0/8;::1":      `range "10.0.0.0/8;::1"`,
		"10.0.0.0-10.0.0.9":   `it is neither an address nor a CIDR range`,
		"10.0.0.0/33":         `prefix length out of range`,
		"10.0.0.0/-1":         `bad bits`,
		"10.0.0.0/":           `bad bits`,
		"10.0.0.0/255.0.0.0":  `bad bits`,
		"010.0.0.1":           `it is neither an address`,
		"10.1.2.3/16":         `the range is 10.1.0.0/16, the address alone 10.1.2.3`,
		"fd00::1/8":           `the range is fd00::/8, the address alone fd00::1`,
		"::ffff:10.0.0.1/104": `the range is 10.0.0.0/8, the address alone 10.0.0.1`,
		"::ffff:0.0.0.0/95":   `give the IPv4 range`,
		"fe80::1%eth0":        `no zone`,
		"fe80::%eth0/10":      `zone`,
		"10.0.0.1:80":         `it is neither an address`,
	} {
		parsed, err := ParsePrefixes(list)
		require.ErrorContains(t, err, want, list)
		assert.Nil(t, parsed, list)
	}
}

func TestBlockedErrorText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		classes []Class
		want    string
	}{
		{[]Class{ClassPrivate}, "the endpoint is not in a public network (private): allow its range with RIVERHOOK_EGRESS_ALLOW to send there"},
		{[]Class{ClassLoopback, ClassOwn}, "the endpoint is not in a public network (loopback, own address): allow its range with RIVERHOOK_EGRESS_ALLOW to send there"},
		{[]Class{ClassOwn}, "the endpoint is riverhook's own listener or database (own address): RIVERHOOK_EGRESS_ALLOW does not open it"},
		{[]Class{ClassDenied, ClassOwn}, "the endpoint is in a range of RIVERHOOK_EGRESS_DENY (denied, own address): RIVERHOOK_EGRESS_ALLOW does not open it"},
		{[]Class{ClassPort}, "the endpoint has a port that does not exist (port 0): RIVERHOOK_EGRESS_ALLOW does not open it"},
		{nil, "the endpoint is not in a public network (): allow its range with RIVERHOOK_EGRESS_ALLOW to send there"},
	} {
		assert.Equal(t, test.want, (&BlockedError{Classes: test.classes}).Error())
	}
}
