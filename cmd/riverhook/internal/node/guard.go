package node

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/riverhook/riverhook/delivery/egress"
)

// newGuard is the guard of the settings that also keeps requests from the database. It is made once the database has
// answered, so that its names resolve.
func (n *Node) newGuard(ctx context.Context) *egress.Guard {
	c := n.Egress
	c.Never = append(c.Never[:len(c.Never):len(c.Never)], n.databaseAddresses(ctx)...)
	return egress.NewGuard(c)
}

func (n *Node) databaseAddresses(ctx context.Context) (addresses []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// On this machine Postgres mostly listens on all addresses.
	here := map[netip.Addr]bool{}
	locals, _ := net.InterfaceAddrs()
	for _, local := range locals {
		if prefix, err := netip.ParsePrefix(local.String()); err == nil {
			here[prefix.Addr().Unmap()] = true
		}
	}
	add := func(host string, port uint16) {
		if strings.HasPrefix(host, "/") { // a Unix socket
			addresses = append(addresses, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
			return
		}
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			n.Log.Warn("the database's name does not resolve: requests are not kept from it", "error", err)
		}
		for _, address := range found {
			if address = address.Unmap(); address.IsLoopback() || here[address] {
				address = netip.IPv4Unspecified()
			}
			addresses = append(addresses, netip.AddrPortFrom(address, port))
		}
	}
	add(n.Database.ConnConfig.Host, n.Database.ConnConfig.Port)
	for _, fallback := range n.Database.ConnConfig.Fallbacks {
		add(fallback.Host, fallback.Port)
	}
	return addresses
}
