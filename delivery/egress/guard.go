package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Config is what a [Guard] adds to [Judge]. All of it may be empty; what is not valid matches nothing.
type Config struct {
	// Allow are ranges that may be dialled although they are not public. Only the address as it is dialled counts: to
	// allow 10.0.0.0/8 does not allow NAT64 addresses that lead there.
	Allow []netip.Prefix
	// Deny are ranges that may not be dialled, not even if allowed; nor may NAT64 addresses that lead there.
	Deny []netip.Prefix
	// Never may not be dialled whatever else is set: riverhook's own listener and its database. An unspecified address
	// (0.0.0.0 or ::) stands for its port at every address of this machine.
	Never []netip.AddrPort
}

// Guard decides what may be dialled. The zero Guard, and a nil one, allow what is public. It does not change: it is safe
// for concurrent use.
type Guard struct {
	allow, deny []netip.Prefix
	never       []netip.AddrPort
	interfaces  func() ([]net.Addr, error) // net.InterfaceAddrs
}

// NewGuard is a guard with these exceptions. It keeps nothing of c.
func NewGuard(c Config) *Guard {
	g := &Guard{interfaces: net.InterfaceAddrs}
	for _, p := range c.Allow {
		g.allow = append(g.allow, unmapPrefix(p))
	}
	for _, p := range c.Deny {
		g.deny = append(g.deny, unmapPrefix(p))
	}
	for _, to := range c.Never {
		g.never = append(g.never, netip.AddrPortFrom(bare(to.Addr()), to.Port()))
	}
	return g
}

// Judge says whether to may be dialled: Never goes before Deny, Deny before Allow, Allow before the function [Judge].
func (g *Guard) Judge(to netip.AddrPort) Verdict {
	addr := bare(to.Addr())
	inner := embedded(addr)
	switch {
	case !addr.IsValid():
		return Verdict{Class: ClassUnknown}
	case to.Port() == 0:
		return Verdict{Class: ClassPort}
	case g == nil:
		return Judge(addr)
	case g.own(addr, to.Port()) || g.own(inner, to.Port()):
		return Verdict{Class: ClassOwn}
	case contains(g.deny, addr) || contains(g.deny, inner):
		return Verdict{Class: ClassDenied}
	case contains(g.allow, addr):
		return Verdict{Allowed: true, Class: ClassAllowed}
	}
	return Judge(addr)
}

// own says whether addr, at this port, is something that is never to be dialled.
func (g *Guard) own(addr netip.Addr, port uint16) bool {
	for _, never := range g.never {
		switch {
		case never.Port() != port || !addr.IsValid():
		case addr == never.Addr(), addr.IsUnspecified(): // the system takes unspecified for loopback
			return true
		case never.Addr().IsUnspecified() && g.isHere(addr):
			return true
		}
	}
	return false
}

// isHere says whether addr is one of this machine's. It asks anew each time, because addresses come and go, and says yes
// if that cannot be known.
func (g *Guard) isHere(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	addrs, err := g.interfaces()
	return err != nil || slices.ContainsFunc(addrs, func(a net.Addr) bool {
		local, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ip, _ := netip.AddrFromSlice(local.IP)
		return bare(ip) == addr
	})
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ParsePrefixes reads a comma-separated list of CIDR ranges and addresses, such as "10.1.0.0/16, 127.0.0.1". White space
// around an entry does not matter; an empty list has none. IPv4-mapped ranges become the IPv4 ranges that they are.
func ParsePrefixes(list string) ([]netip.Prefix, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	var prefixes []netip.Prefix
	for entry := range strings.SplitSeq(list, ",") {
		prefix, err := parsePrefix(strings.TrimSpace(entry))
		if err != nil {
			return nil, fmt.Errorf("egress: parse range %q: %w", strings.TrimSpace(entry), err)
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

func parsePrefix(entry string) (netip.Prefix, error) {
	if entry == "" {
		return netip.Prefix{}, errors.New("it is empty: is there a comma too many?")
	}
	if !strings.Contains(entry, "/") {
		addr, err := netip.ParseAddr(entry)
		switch {
		case err != nil:
			return netip.Prefix{}, errors.New("it is neither an address nor a CIDR range such as 10.1.0.0/16")
		case addr.Zone() != "":
			return netip.Prefix{}, errors.New("a range has no zone")
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("it is not a CIDR range such as 10.1.0.0/16: %w", err)
	}
	if prefix.Addr().Is4In6() && prefix.Bits() < 96 {
		return netip.Prefix{}, errors.New("it is wider than all IPv4-mapped addresses (/96): give the IPv4 range")
	}
	prefix = unmapPrefix(prefix)
	if network := prefix.Masked(); network != prefix {
		return netip.Prefix{}, fmt.Errorf("its address is not where the range begins: the range is %s, the address alone %s", network, prefix.Addr())
	}
	return prefix, nil
}

// unmapPrefix is p, or the IPv4 range that it is.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if !p.Addr().Is4In6() || p.Bits() < 96 {
		return p
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
}

// BlockedError says that a request did not go out because a [Guard] refused all addresses of its host. Nothing was dialled.
// Its text does not tell the addresses: who may read it need not be someone who may learn how names resolve in here.
type BlockedError struct {
	Classes []Class // of the refused addresses, each once, sorted
}

func (e *BlockedError) Error() string {
	names := make([]string, len(e.Classes))
	for i, class := range e.Classes {
		names[i] = string(class)
	}
	text := "the endpoint is not in a public network (%s): allow its range with RIVERHOOK_EGRESS_ALLOW to send there"
	if len(e.Classes) > 0 && !slices.ContainsFunc(e.Classes, openable) {
		text = closed[e.Classes[0]]
	}
	return fmt.Sprintf(text, strings.Join(names, ", "))
}

// closed are the classes that Config.Allow does not open, and what to say of them.
var closed = map[Class]string{
	ClassOwn:    "the endpoint is riverhook's own listener or database (%s): RIVERHOOK_EGRESS_ALLOW does not open it",
	ClassDenied: "the endpoint is in a range of RIVERHOOK_EGRESS_DENY (%s): RIVERHOOK_EGRESS_ALLOW does not open it",
	ClassPort:   "the endpoint has a port that does not exist (%s): RIVERHOOK_EGRESS_ALLOW does not open it",
}

func openable(class Class) bool { return closed[class] == "" }
