package rest

import (
	"cmp"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kontiki/kontiki/api/objects"
)

const (
	typeJSON     = "application/json"
	typeYAML     = "application/yaml"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
)

// transformation is the form that an object is converted to before it is written (the "as" parameter of Accept).
type transformation int

const (
	asIs transformation = iota
	asTable
	asMetadata
)

// accepted is the format in which a client wants the response.
type accepted struct {
	encoding objects.Encoding
	as       transformation
	beta     bool // tables and metadata are of meta.k8s.io/v1beta1, which older clients ask for
	pretty   bool
}

// encode encodes an object that has its type set, YAML as JSON. Tables and metadata get the version that the client asked for.
func (a accepted) encode(obj runtime.Object) ([]byte, error) {
	if a.beta {
		setMetaVersion(obj, metav1beta1.SchemeGroupVersion.String())
	}
	return encodeObject(a.encoding, obj)
}

// setMetaVersion sets the version of a transformed object and of what it includes.
func setMetaVersion(obj runtime.Object, version string) {
	switch obj := obj.(type) {
	case *metav1.Table:
		obj.APIVersion = version
		for i := range obj.Rows {
			setMetaVersion(obj.Rows[i].Object.Object, version)
		}
	case *metav1.PartialObjectMetadata:
		obj.APIVersion = version
	case *metav1.PartialObjectMetadataList:
		obj.APIVersion = version
		for i := range obj.Items {
			obj.Items[i].APIVersion = version
		}
	}
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

// metaVersions are the versions of tables and metadata; none is the newest.
var metaVersions = []string{"", "v1", "v1beta1"}

// negotiate returns the first format in the Accept header that the server supports.
func negotiate(r *http.Request) (accepted, error) {
	return negotiateOf(r, offered{tables: true, protobuf: true})
}

// negotiate returns the first format in the Accept header that the server supports for the request's kind.
func (c *call) negotiate() (accepted, error) {
	return negotiateOf(c.r, offered{tables: true, protobuf: c.kind.Codec.Protobuf()})
}

// offered says in which formats an answer exists. Metadata has protobuf whatever its kind.
type offered struct{ tables, protobuf bool }

// negotiateOf returns the first format in the Accept header that is offered.
func negotiateOf(r *http.Request, offer offered) (accepted, error) {
	pretty := wantsPretty(r)
	header := r.Header.Get("Accept")
	if header == "" {
		return accepted{pretty: pretty}, nil
	}
	for _, clause := range byQuality(header) {
		media, params, err := mime.ParseMediaType(clause)
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
		a.beta = params["v"] == "v1beta1"
		switch as := params["as"]; {
		case as == "" && a.encoding == objects.Protobuf && !offer.protobuf:
			continue
		case as == "":
		case params["g"] != metav1.GroupName || !slices.Contains(metaVersions, params["v"]):
			continue
		case as == "Table" && !offer.tables:
			continue
		case as == "Table" && a.encoding != objects.Protobuf:
			a.as = asTable
			if _, err := tableOptions(r); err != nil {
				return accepted{}, err // fail before anything is written
			}
		case as == "PartialObjectMetadata", as == "PartialObjectMetadataList":
			a.as = asMetadata
		default:
			continue
		}
		return a, nil
	}
	types := []string{typeJSON, typeYAML}
	if offer.protobuf {
		types = append(types, typeProtobuf)
	}
	return accepted{}, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " + strings.Join(types, ", "),
	}}
}

// wantsPretty returns the query parameter or, without one, true for clients that people use directly.
func wantsPretty(r *http.Request) bool {
	if asked := r.URL.Query().Get("pretty"); asked != "" {
		pretty, err := strconv.ParseBool(asked)
		return err == nil && pretty
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// byQuality splits an Accept header and sorts its clauses by quality, highest first. Clauses of equal quality stay in order, those
// of quality 0 are omitted.
func byQuality(header string) []string {
	type clause struct {
		text    string
		quality float64
	}
	var clauses []clause
	for _, text := range strings.Split(header, ",") {
		c := clause{strings.TrimSpace(text), 1}
		if strings.Contains(c.text, "q=") {
			if _, params, err := mime.ParseMediaType(c.text); err == nil && params["q"] != "" {
				if c.quality, err = strconv.ParseFloat(params["q"], 64); err != nil {
					continue
				}
			}
		}
		if c.quality > 0 {
			clauses = append(clauses, c)
		}
	}
	slices.SortStableFunc(clauses, func(a, b clause) int { return cmp.Compare(b.quality, a.quality) })
	out := make([]string, len(clauses))
	for i, c := range clauses {
		out[i] = c.text
	}
	return out
}

// bodyEncoding returns the encoding that a body's Content-Type names.
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
