package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The files of one side's keys. Docker's clients have the same names in DOCKER_CERT_PATH.
const (
	keyFile  = "key.pem"  // the private key
	certFile = "cert.pem" // its public half, in a certificate
	peerFile = "ca.pem"   // the other side's certificate, or several while keys are replaced
)

// Keys are the keys that one side needs: its own key, and the public keys of the other side. Certificates only
// carry the keys: their names, signatures and dates are ignored.
type Keys struct {
	own   tls.Certificate
	peers [][]byte // public keys, in DER
}

// ReadKeys reads the keys of one side from a folder that MakeKeys has made.
func ReadKeys(folder string) (*Keys, error) {
	own, err := tls.LoadX509KeyPair(filepath.Join(folder, certFile), filepath.Join(folder, keyFile))
	if err != nil {
		return nil, err
	}
	name := filepath.Join(folder, peerFile)
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	k := &Keys{own: own}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		peer, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		k.peers = append(k.peers, peer.RawSubjectPublicKeyInfo)
	}
	if len(k.peers) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it", name)
	}
	if k.isPeer(own.Leaf.RawSubjectPublicKeyInfo) {
		return nil, fmt.Errorf("%s holds this side's own key: every agent could command the others", name)
	}
	return k, nil
}

// The names in the certificates that MakeKeys makes. They only help to notice a wrong folder.
const (
	serverName = "iglu-builder server"
	agentName  = "iglu-builder agent"
)

// AreServers reports whether MakeKeys has made the keys for a server.
func (k *Keys) AreServers() bool { return k.own.Leaf.Subject.CommonName == serverName }

// AreAgents reports whether MakeKeys has made the keys for agents.
func (k *Keys) AreAgents() bool { return k.own.Leaf.Subject.CommonName == agentName }

func (k *Keys) isPeer(key []byte) bool {
	return slices.ContainsFunc(k.peers, func(peer []byte) bool { return bytes.Equal(peer, key) })
}

// The reasons to refuse the other side's key. TLS has already checked that the other side owns the key.
var (
	errStranger = errors.New("its key is not the one of the other side")
	errOwnKey   = errors.New("its key is that of an agent, not of the server")
)

// verify checks the key of the other side.
func (k *Keys) verify(state tls.ConnectionState) error {
	key := state.PeerCertificates[0].RawSubjectPublicKeyInfo
	switch {
	case k.isPeer(key):
		return nil
	case bytes.Equal(key, k.own.Leaf.RawSubjectPublicKeyInfo):
		return errOwnKey
	}
	return errStranger
}

// The protocols that a client offers (ALPN, RFC 7301). The one that the agent chooses says whether the agent was
// asked to stop.
const (
	protocolServing  = "iglu-agent-serving"
	protocolDraining = "iglu-agent-draining"
	protocolProgram  = "iglu-agent-program" // a client that offers it alone gets the agent's program: see Keys.Program
)

// listening returns the TLS configuration of an agent.
func (k *Keys) listening(isDraining func() bool) *tls.Config {
	serving := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{k.own},
		ClientAuth:                  tls.RequireAnyClientCert,
		VerifyConnection:            k.verify,
		SessionTicketsDisabled:      true, // each connection shows the key
		DynamicRecordSizingDisabled: true, // logs, not pages
	}
	draining := serving.Clone()
	serving.NextProtos, draining.NextProtos = []string{protocolServing}, []string{protocolDraining}
	program := serving.Clone()
	program.NextProtos = []string{protocolProgram}
	plain := serving.Clone() // other clients, such as Docker's own
	plain.NextProtos = nil
	serving.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		switch {
		case slices.Contains(hello.SupportedProtos, protocolProgram):
			return program, nil
		case !slices.Contains(hello.SupportedProtos, protocolServing):
			return plain, nil
		case isDraining():
			return draining, nil
		}
		return nil, nil
	}
	return serving
}

// dialing returns the TLS configuration of a client. It is the same for all agents.
func (k *Keys) dialing() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{k.own},
		InsecureSkipVerify:          true, // skips names and signatures only: VerifyConnection checks the key
		VerifyConnection:            k.verify,
		NextProtos:                  []string{protocolServing, protocolDraining},
		DynamicRecordSizingDisabled: true,
	}
}

// HostNames are the names in the certificate of agents. Only clients that verify names need them, such as
// Docker's own.
var HostNames = []string{"agent", "tasks.agent", "engine", "localhost", "127.0.0.1", "::1"}

// IsHost reports whether a text is a name or an address of a host, without a port, so that a certificate can have it.
// The first label of a name can be an asterisk (RFC 6125, 6.4.3).
func IsHost(text string) bool {
	isLabel := func(label string) bool {
		const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
		return label != "" && strings.Trim(label, letters+"-") == "" && strings.Trim(label, "-") == label
	}
	name, _ := strings.CutPrefix(text, "*.")
	return net.ParseIP(text) != nil || !slices.ContainsFunc(strings.Split(name, "."), func(label string) bool { return !isLabel(label) })
}

// MakeKeys makes the keys of both sides, in the subfolders server and agent of a folder. It creates the folder if
// it does not exist, and fails if there are keys already. The agent's certificate has hosts, which are names or
// addresses, in addition to HostNames.
func MakeKeys(folder string, hosts []string) error {
	server, err := newPair(serverName, x509.ExtKeyUsageClientAuth, nil)
	if err != nil {
		return err
	}
	agent, err := newPair(agentName, x509.ExtKeyUsageServerAuth, append(slices.Clone(HostNames), hosts...))
	if err != nil {
		return err
	}
	for _, side := range []string{"server", "agent"} {
		if _, err := os.Lstat(filepath.Join(folder, side)); err == nil {
			return fmt.Errorf("%s exists already", filepath.Join(folder, side))
		}
	}
	if err := server.write(filepath.Join(folder, "server"), agent.cert); err != nil {
		return err
	}
	return agent.write(filepath.Join(folder, "agent"), server.cert)
}

// A pair is a key and its certificate, as PEM.
type pair struct{ key, cert []byte }

// The dates of certificates. notAfter means that they do not expire (RFC 5280, 4.1.2.5). notBefore is earlier
// than any machine's clock.
var (
	notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

func newPair(name string, usage x509.ExtKeyUsage, hosts []string) (p pair, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return p, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return p, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return p, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	p.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	p.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return p, err
}

// write writes a pair, and the certificate of the other side, into a new folder.
func (p pair) write(folder string, peer []byte) error {
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	for name, text := range map[string][]byte{keyFile: p.key, certFile: p.cert, peerFile: peer} {
		if err := writeNew(filepath.Join(folder, name), text); err != nil {
			return err
		}
	}
	return nil
}

// writeNew creates a file that only its owner can read. It fails if the file exists.
func writeNew(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
