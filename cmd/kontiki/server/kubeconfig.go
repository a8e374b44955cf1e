package server

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/durable"
)

// WriteKubeconfig writes a kubeconfig for the administrator, with a new certificate from the CA. It trusts the roots, a PEM bundle.
func WriteKubeconfig(path, server string, ca *pki.Authority, roots []byte) error {
	pair, err := ca.IssueClient("kubernetes-admin", []string{"system:masters"})
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["kontiki"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: roots}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.CertPEM, ClientKeyData: pair.KeyPEM}
	config.Contexts["kontiki"] = &clientcmdapi.Context{Cluster: "kontiki", AuthInfo: "admin"}
	config.CurrentContext = "kontiki"
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return durable.WriteFile(path, data, 0o600)
}
