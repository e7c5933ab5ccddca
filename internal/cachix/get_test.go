package cachix

import "testing"

func TestGetCommand(t *testing.T) {
	const command = "nix-store --realise /nix/store/a --option extra-substituters https://c"
	for _, test := range []struct {
		keys []string
		want string
	}{
		{nil, command},
		{[]string{"c:a="}, command + " --option extra-trusted-public-keys c:a="},
		{[]string{"c:a=", "c-1:a="}, command + " --option extra-trusted-public-keys 'c:a= c-1:a='"},
	} {
		if got := GetCommand("https://c", test.keys, []string{"/nix/store/a"}); got != test.want {
			t.Errorf("%q: %s, want %s", test.keys, got, test.want)
		}
	}
}
