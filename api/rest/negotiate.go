package rest

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/objects"
)

const (
	typeJSON     = "application/json"
	typeYAML     = "application/yaml"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
)

// transformation is what an object is turned into before it is written (the "as" parameter of Accept).
type transformation int

const (
	asIs transformation = iota
	asTable
	asMetadata
)

// accepted is the form a client wants an answer in.
type accepted struct {
	encoding objects.Encoding
	as       transformation
	pretty   bool
}

func (a accepted) contentType() string {
	switch a.encoding {
	case objects.YAML:
		return typeYAML
	case objects.Protobuf:
		return typeProtobuf
	}
	return typeJSON
}

// negotiate picks the first form of the Accept header that the server has.
func negotiate(r *http.Request) (accepted, error) {
	pretty := isTrue(r.URL.Query().Get("pretty"))
	header := r.Header.Get("Accept")
	if header == "" {
		return accepted{pretty: pretty}, nil
	}
	for _, clause := range strings.Split(header, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		a := accepted{pretty: pretty || isTrue(params["pretty"])}
		switch media {
		case typeJSON, "*/*", "application/*":
		case typeYAML:
			a.encoding = objects.YAML
		case typeProtobuf:
			a.encoding = objects.Protobuf
		default:
			continue
		}
		switch as := params["as"]; {
		case as == "":
		case params["g"] != metav1.GroupName || (params["v"] != "v1" && params["v"] != ""):
			continue
		case as == "Table" && a.encoding != objects.Protobuf:
			a.as = asTable
		case as == "PartialObjectMetadata", as == "PartialObjectMetadataList":
			a.as = asMetadata
		default:
			continue
		}
		return a, nil
	}
	return accepted{}, apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "get", schema.GroupResource{}, "", fmt.Sprintf(
		"only the following media types are accepted: %s, %s, %s", typeJSON, typeYAML, typeProtobuf), 0, true)
}

// bodyEncoding reads the Content-Type of a body.
func bodyEncoding(r *http.Request) (objects.Encoding, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return objects.JSON, nil
	}
	media, _, err := mime.ParseMediaType(header)
	switch {
	case err != nil:
	case media == typeJSON:
		return objects.JSON, nil
	case media == typeYAML:
		return objects.YAML, nil
	case media == typeProtobuf:
		return objects.Protobuf, nil
	}
	return 0, unsupportedMedia(fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s, %s, %s", typeJSON, typeYAML, typeProtobuf))
}

func unsupportedMedia(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType, Message: message,
	}}
}

// queryInt reads an integer parameter.
func queryInt(r *http.Request, name string) (int64, error) {
	value := r.URL.Query().Get(name)
	if value == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("%s: %q is not a number", name, value))
	}
	return n, nil
}
