package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	// stagger is how long an address has to answer before the next one is tried beside it.
	stagger = 300 * time.Millisecond
	// maxAddresses bounds how many addresses of a host are tried, and so the connections that one request may open.
	maxAddresses = 6
)

// dialer connects to what its guard allows.
type dialer struct {
	net.Dialer
	guard *Guard
}

func newDialer(guard *Guard, options ...Option) *dialer {
	d := &dialer{Dialer: net.Dialer{KeepAlive: 30 * time.Second, Timeout: connectTimeout}, guard: guard}
	for _, option := range options {
		option(d)
	}
	d.ControlContext = d.control
	return d
}

// DialContext connects to the first allowed address that answers. It resolves once: what was judged is what is dialled.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &net.AddrError{Err: "invalid port", Addr: service}
	}
	found, err := d.Resolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	allowed, err := d.guard.allowed(found, uint16(port))
	if err != nil {
		return nil, err
	}
	return race(ctx, allowed, func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		return d.connect(ctx, network, to)
	})
}

// allowed are those of the addresses that may be dialled, in the order to try them in. If there are none, it is a
// *BlockedError.
func (g *Guard) allowed(found []net.IPAddr, port uint16) ([]netip.AddrPort, error) {
	var (
		allowed []netip.AddrPort
		refused BlockedError
	)
	for _, ip := range found {
		addr, _ := netip.AddrFromSlice(ip.IP)
		to := netip.AddrPortFrom(addr.Unmap().WithZone(ip.Zone), port)
		switch v := g.Judge(to); {
		case !v.Allowed:
			refused.Classes = append(refused.Classes, v.Class)
		case !slices.Contains(allowed, to):
			allowed = append(allowed, to)
		}
	}
	if len(allowed) == 0 {
		slices.Sort(refused.Classes)
		refused.Classes = slices.Compact(refused.Classes)
		return nil, &refused
	}
	allowed = alternate(allowed)
	return allowed[:min(len(allowed), maxAddresses)], nil
}

// alternate mixes the families, beginning with the first one's: where one leads nowhere, the other's turn comes soon.
func alternate(all []netip.AddrPort) []netip.AddrPort {
	var first, second []netip.AddrPort
	for _, to := range all {
		if to.Addr().Is4() == all[0].Addr().Is4() {
			first = append(first, to)
		} else {
			second = append(second, to)
		}
	}
	mixed := make([]netip.AddrPort, 0, len(all))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			mixed = append(mixed, first[i])
		}
		if i < len(second) {
			mixed = append(mixed, second[i])
		}
	}
	return mixed
}

// connect dials one address. A refusal is a bare *BlockedError: net's own error would name the address.
func (d *dialer) connect(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, to.String())
	if blocked := (*BlockedError)(nil); errors.As(err, &blocked) {
		return nil, blocked
	}
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// control judges the address of a socket that is about to connect: whatever came before it, nothing else is dialled.
func (d *dialer) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, _ := netip.ParseAddrPort(address) // what is not one is not valid, and so refused
	if v := d.guard.Judge(to); !v.Allowed {
		return &BlockedError{Classes: []Class{v.Class}}
	}
	return nil
}

// race connects to one of at least one address. They are tried in order; the next one's turn comes when the one before has
// failed, or has not answered within the stagger. The first connection wins, and the others are given up. If all fail,
// the error is the first one's.
func race(ctx context.Context, addrs []netip.AddrPort, connect func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results, over := make(chan result), make(chan struct{})
	defer close(over)
	attempt := func(to netip.AddrPort) {
		conn, err := connect(ctx, to)
		select {
		case results <- result{conn, err}:
		case <-over:
			if err == nil {
				_ = conn.Close()
			}
		}
	}

	var (
		turn    = time.NewTimer(0)
		running int
		first   error
	)
	defer turn.Stop()
	for len(addrs) > 0 || running > 0 {
		var next <-chan time.Time
		if len(addrs) > 0 {
			next = turn.C
		}
		select {
		case <-next:
			go attempt(addrs[0])
			addrs = addrs[1:]
			running++
			turn.Reset(stagger)
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			if first == nil {
				first = r.err
			}
			if ctx.Err() != nil {
				addrs = nil
			}
			turn.Reset(0)
		}
	}
	return nil, first
}
