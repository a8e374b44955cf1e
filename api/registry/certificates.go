package registry

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
)

const certificatesGroup = "certificates.k8s.io"

func clusterTrustBundles() *Resource {
	return follow(&Resource{
		Group: certificatesGroup, Kind: "ClusterTrustBundle", Resource: "clustertrustbundles",
		Fields: func(obj Object) fields.Set {
			return fields.Set{"spec.signerName": obj.(*certificatesv1.ClusterTrustBundle).Spec.SignerName}
		},
		FieldNames: []string{"spec.signerName"},
	}, clustertrustbundle.Strategy, nil)
}
