package egress

import (
	"net/netip"

	"code.dny.dev/ssrf"
)

// Class is why an address is allowed or refused, in a few words for people.
type Class string

// The classes of [Judge].
const (
	ClassPublic        Class = "public" // the only one that Judge allows
	ClassUnknown       Class = "unknown"
	ClassUnspecified   Class = "unspecified"
	ClassLoopback      Class = "loopback"
	ClassPrivate       Class = "private"
	ClassLinkLocal     Class = "link-local or metadata"
	ClassCarrierNAT    Class = "carrier-grade NAT"
	ClassMulticast     Class = "multicast"
	ClassDocumentation Class = "documentation or benchmark"
	ClassTunnel        Class = "6to4 or Teredo"
	ClassReserved      Class = "reserved"
)

// The classes that only a [Guard] gives.
const (
	ClassAllowed Class = "allowed"     // in a range of Config.Allow
	ClassDenied  Class = "denied"      // in a range of Config.Deny
	ClassOwn     Class = "own address" // in Config.Never
	ClassPort    Class = "port 0"
)

// Verdict says whether something may be dialled, and why. Its zero value refuses.
type Verdict struct {
	Allowed bool
	Class   Class
}

// reservations are the prefixes of IANA's special-purpose registries for IPv4, and for IPv6 those within 2000::/3, outside
// of which nothing is public.
var reservations = ssrf.New(ssrf.WithAnyPort(), ssrf.WithAnyNetwork())

// ranges name those reservations of which there is more to say than that they are reserved, and add what no registry
// has. The first that contains an address names it.
var ranges = []struct {
	prefix netip.Prefix
	class  Class
}{
	{netip.MustParsePrefix("0.0.0.0/8"), ClassUnspecified},
	{netip.MustParsePrefix("10.0.0.0/8"), ClassPrivate},
	{netip.MustParsePrefix("100.64.0.0/10"), ClassCarrierNAT},
	{netip.MustParsePrefix("127.0.0.0/8"), ClassLoopback},
	{netip.MustParsePrefix("168.63.129.16/32"), ClassLinkLocal}, // Azure's platform services: a public address, never routed
	{netip.MustParsePrefix("169.254.0.0/16"), ClassLinkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), ClassPrivate},
	{netip.MustParsePrefix("192.0.2.0/24"), ClassDocumentation},
	{netip.MustParsePrefix("192.168.0.0/16"), ClassPrivate},
	{netip.MustParsePrefix("198.18.0.0/15"), ClassDocumentation},
	{netip.MustParsePrefix("198.51.100.0/24"), ClassDocumentation},
	{netip.MustParsePrefix("203.0.113.0/24"), ClassDocumentation},
	{netip.MustParsePrefix("224.0.0.0/4"), ClassMulticast},

	{netip.MustParsePrefix("::/128"), ClassUnspecified},
	{netip.MustParsePrefix("::1/128"), ClassLoopback},
	{netip.MustParsePrefix("2001::/32"), ClassTunnel},
	{netip.MustParsePrefix("2001:db8::/32"), ClassDocumentation},
	{netip.MustParsePrefix("2002::/16"), ClassTunnel},
	{netip.MustParsePrefix("3fff::/20"), ClassDocumentation},
	{netip.MustParsePrefix("fd00:ec2::254/128"), ClassLinkLocal}, // metadata of AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), ClassLinkLocal},  // metadata of Google Cloud
	{netip.MustParsePrefix("fc00::/7"), ClassPrivate},
	{netip.MustParsePrefix("fe80::/10"), ClassLinkLocal},
	{netip.MustParsePrefix("fec0::/10"), ClassPrivate}, // site-local
	{netip.MustParsePrefix("ff00::/8"), ClassMulticast},
}

// Judge says whether an address is one of the public internet. IPv4 within IPv6 is judged as the IPv4 address that it is
// (mapped) or leads to (NAT64); a zone changes nothing. What is not known to be public is refused.
func Judge(addr netip.Addr) Verdict {
	if !addr.IsValid() {
		return Verdict{Class: ClassUnknown}
	}
	addr = bare(addr)
	for _, r := range ranges {
		if r.prefix.Contains(addr) {
			return Verdict{Class: r.class}
		}
	}
	switch inner := embedded(addr); {
	case !inner.IsValid():
	case nat64.Contains(addr):
		return Judge(inner)
	default: // IPv4-compatible addresses are not routed, whatever is in them
		if v := Judge(inner); !v.Allowed {
			return v
		}
	}
	if reservations.SafeAddr(addr) != nil {
		return Verdict{Class: ClassReserved}
	}
	return Verdict{Allowed: true, Class: ClassPublic}
}

var (
	nat64      = ssrf.IPv6NAT64Prefix
	compatible = netip.MustParsePrefix("::/96")
)

// bare is addr without a zone, and as IPv4 if that is what it is.
func bare(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// embedded is the IPv4 address to which a bare IPv6 address of NAT64, or an IPv4-compatible one, leads. Not valid: none.
func embedded(addr netip.Addr) netip.Addr {
	if !nat64.Contains(addr) && !compatible.Contains(addr) {
		return netip.Addr{}
	}
	bytes := addr.As16()
	return netip.AddrFrom4([4]byte(bytes[12:]))
}
