package schemas

import (
	"net/url"
	"slices"
)

// Public returns the request without what its properties for secrets hold, and without users in the
// http(s) URLs that it names. The hosts of access tokens stay. What its other texts hold of secrets is
// still there: see Secrets.
func (r *Request) Public() *Request {
	public := *r
	public.Git.GitKey = ""
	public.BuildOptions.Cachix.APIKey, public.BuildOptions.Cachix.SigningKey = "", ""
	public.Nix = Nix{}
	if len(r.Nix.AccessTokens) > 0 {
		public.Nix.AccessTokens = make(map[string]string)
		for host := range r.Nix.AccessTokens {
			public.Nix.AccessTokens[host] = ""
		}
	}
	public.BuildOptions.Substituters = slices.Clone(r.BuildOptions.Substituters)
	public.Git.Repository = withoutUser(r.Git.Repository)
	public.BuildOptions.Cachix.Target = withoutUser(r.BuildOptions.Cachix.Target)
	for i, substituter := range public.BuildOptions.Substituters {
		public.BuildOptions.Substituters[i] = withoutUser(substituter)
	}
	return &public
}

// withoutUser returns an address without the user of an http(s) URL. Of ssh, the user is a part of the
// address; the password goes.
func withoutUser(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	if u.Scheme == "ssh" {
		u.User = url.User(u.User.Username())
	} else {
		u.User = nil
	}
	return u.String()
}
