package delivery

import (
	"errors"
	"net/url"
	"strconv"
)

// ParseEndpoint reads an endpoint_url as it may be requested: http or https, a host, a port that is one, no userinfo. The
// fragment, which is not sent, is left out. Errors say what is wrong without repeating the URL, which may hold secrets.
func ParseEndpoint(endpoint string) (*url.URL, error) {
	target, err := url.Parse(endpoint)
	switch {
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
