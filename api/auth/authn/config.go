package authn

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
)

// maxConfigSize limits the size of an authentication configuration file.
const maxConfigSize = 1 << 20

// Algorithms are the signing algorithms that tokens may have, all of them asymmetric.
var Algorithms = []string{"ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"}

// CheckAlgorithms returns an error if tokens cannot have one of the algorithms.
func CheckAlgorithms(names []string) error {
	for _, name := range names {
		if !slices.Contains(Algorithms, name) {
			return fmt.Errorf("oidc: unsupported signing alg: %q", name)
		}
	}
	return nil
}

var configCodecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}()

// Load reads an AuthenticationConfiguration from a file. It also returns the file's content.
func Load(file string) (*apiserver.AuthenticationConfiguration, []byte, error) {
	data, err := read(file)
	if err != nil {
		return nil, nil, err
	}
	config, err := decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to load authentication configuration from file %q: %w", file, err)
	}
	return config, data, nil
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err == nil && len(data) > maxConfigSize {
		err = fmt.Errorf("%s: it is larger than %d bytes", file, maxConfigSize)
	}
	return data, err
}

func decode(data []byte) (*apiserver.AuthenticationConfiguration, error) {
	if len(data) == 0 {
		return nil, errors.New("empty config data")
	}
	obj, err := runtime.Decode(configCodecs.UniversalDecoder(), data)
	if err != nil {
		return nil, err
	}
	config, ok := obj.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("expected AuthenticationConfiguration, got %T", obj)
	}
	return config, nil
}

// validate checks a configuration by upstream's rules, and that it needs nothing that is not built.
func validate(compiler authenticationcel.Compiler, config *apiserver.AuthenticationConfiguration, disallowed []string) error {
	errs := validation.ValidateAuthenticationConfiguration(compiler, config, disallowed)
	for i, jwt := range config.JWT {
		if jwt.Issuer.EgressSelectorType != "" {
			errs = append(errs, field.Forbidden(field.NewPath("jwt").Index(i).Child("issuer", "egressSelectorType"), "this API server has no egress selector: remove the field, and let the master reach the issuer directly"))
		}
	}
	if err := errs.ToAggregate(); err != nil {
		return fmt.Errorf("invalid authentication configuration: %w", err)
	}
	return nil
}
