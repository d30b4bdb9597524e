package egress_test

import (
	"net/netip"
	"testing"

	"github.com/riverhook/riverhook/delivery/egress"
)

func BenchmarkGuardJudge(b *testing.B) {
	guard := egress.NewGuard(egress.Config{
		Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		Never: []netip.AddrPort{netip.MustParseAddrPort("10.1.0.5:5432")},
	})
	for _, c := range []struct{ name, address string }{
		{"public", "93.184.215.14:443"}, {"public 6", "[2606:2800:21f::14]:443"}, {"allowed", "10.1.2.3:443"}, {"private", "192.168.0.1:80"},
		{"NAT64", "[64:ff9b::a01:203]:443"},
	} {
		b.Run(c.name, func(b *testing.B) {
			to := netip.MustParseAddrPort(c.address)
			b.ReportAllocs()
			for b.Loop() {
				guard.Judge(to)
			}
		})
	}
}
