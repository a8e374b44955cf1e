// Package certificates approves and signs CertificateSigningRequests, by upstream's rules.
//
// The approver approves the requests of nodes for client certificates, if their requester may create the subresource selfnodeclient or
// nodeclient of certificatesigningrequests. The signer signs what somebody has approved for the signers of Kubernetes:
// kubernetes.io/kube-apiserver-client, kubernetes.io/kube-apiserver-client-kubelet and kubernetes.io/kubelet-serving. The fourth one,
// kubernetes.io/legacy-unknown, cannot be requested in certificates.k8s.io/v1.
//
// It signs with a CA of its own, which only the API accepts (see pki.Authority.Clients). Package expiry deletes requests.
package certificates
