package schemas

import (
	"net/url"
	"slices"
)

// Public returns the request without the values of its properties for secrets, and without users in its
// http(s) URLs. The hosts of access tokens are kept. Secrets in other texts, such as the command, are not
// removed: see Secrets.
func (r *Request) Public() *Request {
	public := *r
	public.Git.GitKey = ""
	if isToken(r.Git.GitUsername) {
		public.Git.GitUsername = ""
	}
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

// SecretNames returns the names of the properties for secrets that the request has, which are not in Public.
func (r *Request) SecretNames() (names []string) {
	cachix := r.BuildOptions.Cachix
	for _, secret := range []struct {
		name    string
		present bool
	}{
		{"gitKey", r.Git.GitKey != ""},
		{"accessTokens", len(r.Nix.AccessTokens) > 0},
		{"netrc", r.Nix.Netrc != ""},
		{"apiKey", cachix.APIKey != ""},
		{"signingKey", cachix.SigningKey != ""},
	} {
		if secret.present {
			names = append(names, secret.name)
		}
	}
	return names
}

// withoutUser returns an address without the user of an http(s) URL. In an ssh URL the user is a part of the
// address, and only the password is removed.
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
