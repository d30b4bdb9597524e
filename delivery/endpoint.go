package delivery

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// maxEndpoint bounds an endpoint_url, in bytes: more than any receiver of HTTP takes.
const maxEndpoint = 8 << 10

// ParseEndpoint reads an endpoint_url as it may be requested: http or https, a host, a port that is one, no userinfo. The
// fragment, which is not sent, is left out. Errors say what is wrong without repeating the URL, which may hold secrets.
func ParseEndpoint(endpoint string) (*url.URL, error) {
	if len(endpoint) > maxEndpoint {
		return nil, fmt.Errorf("endpoint_url is %d bytes long, more than %d", len(endpoint), maxEndpoint)
	}
	target, err := url.Parse(endpoint)
	switch {
	case err != nil && !strings.HasPrefix(strings.ToLower(endpoint), "http"):
		return nil, errors.New("endpoint_url must begin with http:// or https://")
	case err != nil:
		return nil, errors.New("endpoint_url is not a valid URL")
	case target.Scheme != "http" && target.Scheme != "https":
		return nil, errors.New("endpoint_url must begin with http:// or https://")
	case target.Hostname() == "":
		return nil, errors.New("endpoint_url has no host")
	case target.User != nil:
		return nil, errors.New("endpoint_url must not hold a user name or password: use a credential")
	}
	if port := target.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, errors.New("endpoint_url has a port that is none")
		}
	}
	target.Fragment, target.RawFragment = "", ""
	return target, nil
}

// Origin is the origin of an endpoint as deliveries.endpoint_origin has it: scheme, host and port, lower case, without the
// scheme's default port.
func Origin(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if defaultPort := map[string]string{"http": ":80", "https": ":443"}[scheme]; defaultPort != "" {
		host = strings.TrimSuffix(host, defaultPort)
	}
	return scheme + "://" + host
}
