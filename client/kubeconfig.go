package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// kubeconfig has the fields of a kubeconfig that are used. client-go has all of them, but needs 400 packages.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string
		Context struct{ Cluster, User string }
	}
	Clusters []struct {
		Name    string
		Cluster struct {
			Server        string
			Authority     string `json:"certificate-authority"`
			AuthorityData []byte `json:"certificate-authority-data"`
			ServerName    string `json:"tls-server-name"`
			Insecure      bool   `json:"insecure-skip-tls-verify"`
		}
	}
	Users []struct {
		Name string
		User struct {
			Certificate     string `json:"client-certificate"`
			CertificateData []byte `json:"client-certificate-data"`
			Key             string `json:"client-key"`
			KeyData         []byte `json:"client-key-data"`
			Token           string
			TokenFile       string
			Exec            any
			AuthProvider    any `json:"auth-provider"`
		}
	}
}

// addKubeconfig fills in what the configuration does not set.
func (c *Config) addKubeconfig() error {
	text, dir, from := c.KubeconfigData, "", "the kubeconfig"
	if c.Kubeconfig != "" {
		var err error
		if text, err = os.ReadFile(c.Kubeconfig); err != nil {
			return err
		}
		dir, from = filepath.Dir(c.Kubeconfig), c.Kubeconfig
	}
	if err := c.addParsed(text, dir); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}

func (c *Config) addParsed(text []byte, dir string) error {
	var k kubeconfig
	if err := yaml.Unmarshal(text, &k); err != nil {
		return err
	}
	name := c.Context
	if name == "" {
		name = k.CurrentContext
	}
	if name == "" {
		return errors.New("it has no current-context: name one")
	}
	var cluster, user string
	found := false
	for _, one := range k.Contexts {
		if one.Name == name {
			cluster, user, found = one.Context.Cluster, one.Context.User, true
		}
	}
	if !found {
		return fmt.Errorf("it has no context %q", name)
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	found = false
	for _, one := range k.Clusters {
		if one.Name != cluster {
			continue
		}
		found = true
		if len(c.Endpoints) == 0 {
			c.Endpoints = []string{one.Cluster.Server}
		}
		settings.ServerName, settings.InsecureSkipVerify = one.Cluster.ServerName, one.Cluster.Insecure
		authority, err := content(one.Cluster.AuthorityData, one.Cluster.Authority, dir)
		if err != nil {
			return fmt.Errorf("certificate-authority: %w", err)
		}
		if authority != nil {
			settings.RootCAs = x509.NewCertPool()
			if !settings.RootCAs.AppendCertsFromPEM(authority) {
				return fmt.Errorf("the certificate-authority of cluster %q has no certificate", cluster)
			}
		}
	}
	if !found {
		return fmt.Errorf("it has no cluster %q, which context %q names", cluster, name)
	}
	for _, one := range k.Users {
		if one.Name != user {
			continue
		}
		u := one.User
		if u.Exec != nil || u.AuthProvider != nil {
			return fmt.Errorf("user %q gets credentials from a plugin, which is not supported: give a certificate or a token", user)
		}
		certificate, err := content(u.CertificateData, u.Certificate, dir)
		if err != nil {
			return fmt.Errorf("client-certificate: %w", err)
		}
		key, err := content(u.KeyData, u.Key, dir)
		if err != nil {
			return fmt.Errorf("client-key: %w", err)
		}
		if certificate != nil {
			pair, err := tls.X509KeyPair(certificate, key)
			if err != nil {
				return fmt.Errorf("the client certificate of user %q: %w", user, err)
			}
			settings.Certificates = []tls.Certificate{pair}
		}
		switch {
		case c.Token != "" || c.TokenSource != nil:
		case u.Token != "":
			c.Token = strings.TrimSpace(u.Token)
		case u.TokenFile != "":
			c.TokenSource = tokenFile(inDir(u.TokenFile, dir))
		}
	}
	if c.TLS == nil {
		c.TLS = settings
	}
	return nil
}

// content returns data, or the content of the file, or nil.
func content(data []byte, file, dir string) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	return os.ReadFile(inDir(file, dir))
}

// inDir resolves a path in a kubeconfig as kubectl does, relative to the kubeconfig's directory.
func inDir(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
