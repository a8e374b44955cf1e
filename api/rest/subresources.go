package rest

import (
	"net/http"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/printers"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// specialSubresources maps the name of a subresource that is not a part of the object, qualified by its kind's API group, to its
// handler.
var specialSubresources = map[schema.GroupResource]specialSubresource{
	corev1.Resource("pods/binding"):          {subresource{"", "", "", "Binding", onlyCreate}, (*call).bind},
	corev1.Resource("pods/eviction"):         {subresource{"", "policy", "v1", "Eviction", onlyCreate}, (*call).evict},
	corev1.Resource("pods/log"):              {subresource{"", "", "", "Pod", metav1.Verbs{"get"}}, (*call).podLog},
	corev1.Resource("pods/exec"):             {subresource{"", "", "", "PodExecOptions", connects}, (*call).podExec},
	corev1.Resource("pods/attach"):           {subresource{"", "", "", "PodAttachOptions", connects}, (*call).podAttach},
	corev1.Resource("pods/portforward"):      {subresource{"", "", "", "PodPortForwardOptions", connects}, (*call).podPortForward},
	corev1.Resource("pods/proxy"):            {subresource{"", "", "", "PodProxyOptions", proxies}, (*call).podProxy},
	corev1.Resource("services/proxy"):        {subresource{"", "", "", "ServiceProxyOptions", proxies}, (*call).serviceProxy},
	corev1.Resource("nodes/proxy"):           {subresource{"", "", "", "NodeProxyOptions", proxies}, (*call).nodeProxy},
	corev1.Resource("serviceaccounts/token"): {subresource{"", "authentication.k8s.io", "v1", "TokenRequest", onlyCreate}, (*call).createToken},
}

type specialSubresource struct {
	subresource
	serve func(*call) error
}

// accepts says whether a request's method is served. Connections are opened only by GET and POST, so HEAD is no "get" of theirs; proxies
// forward every method.
func (s *specialSubresource) accepts(method, verb string) bool {
	switch {
	case strings.HasSuffix(s.kind, "ProxyOptions"):
		return true
	case method == http.MethodHead:
		return false
	}
	return slices.Contains(s.verbs, verb)
}

var (
	onlyCreate = metav1.Verbs{"create"}
	connects   = metav1.Verbs{"create", "get"}
	proxies    = metav1.Verbs{"create", "delete", "get", "patch", "update"}
)

// decodeBody decodes the body of a POST request whose type differs from the request's kind.
func decodeBody[T runtime.Object](c *call, into T, gvk schema.GroupVersionKind) (T, *objects.Request, metav1.CreateOptions, error) {
	var o metav1.CreateOptions
	var none T
	if c.r.Method != http.MethodPost {
		return none, nil, o, apierrors.NewMethodNotSupported(c.kind.GroupResource(), c.verb)
	}
	if err := c.options(&o); err != nil {
		return none, nil, o, err
	}
	encoding, err := bodyEncoding(c.r)
	if err != nil {
		return none, nil, o, err
	}
	data, err := c.body()
	if err != nil {
		return none, nil, o, err
	}
	r := c.request(o.FieldManager, o.DryRun)
	out, err := objects.DecodeOther(r, data, encoding, objects.FieldValidation(o.FieldValidation), into, gvk)
	if err == nil {
		c.record.Request(out)
		err = c.checkNamespace(out)
	}
	return out, r, o, err
}

// checkNamespace refuses an object whose namespace is not the one in the path.
func (c *call) checkNamespace(obj runtime.Object) error {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if given := accessor.GetNamespace(); given != "" && given != c.target.namespace {
		return objects.InField("metadata.namespace", apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request"))
	}
	return nil
}

func (c *call) success(code int32) error {
	accept, err := negotiateOf(c.r, offered{protobuf: true})
	if err != nil {
		return err
	}
	return c.writeOther(accept, int(code), &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: code})
}

func (c *call) bind() error {
	if _, err := negotiateOf(c.r, offered{protobuf: true}); err != nil {
		return err
	}
	binding, r, _, err := decodeBody(c, &corev1.Binding{}, metaV1.WithKind("Binding"))
	if err != nil {
		return err
	}
	if c.target.name == "" { // the binding itself was posted, and names the pod
		r.Name, r.Subresource = binding.Name, "binding"
		r.Kind, _ = c.Objects.Kinds().ByGroupResource("", "pods")
	}
	if binding.Name != "" && binding.Name != r.Name {
		return apierrors.NewBadRequest("metadata.name: the name of the binding must be the pod's")
	}
	if err := c.Objects.Bind(c.r.Context(), r, binding); err != nil {
		return err
	}
	return c.success(http.StatusCreated)
}

func (c *call) evict() error {
	if _, err := negotiateOf(c.r, offered{protobuf: true}); err != nil {
		return err
	}
	eviction, r, o, err := decodeBody(c, &policyv1.Eviction{}, policyv1.SchemeGroupVersion.WithKind("Eviction"))
	if err != nil {
		return err
	}
	if eviction.Name != c.target.name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	r.DryRun = r.DryRun || eviction.DeleteOptions != nil && len(eviction.DeleteOptions.DryRun) > 0 || len(o.DryRun) > 0
	if err := c.Objects.Evict(c.r.Context(), r, eviction); err != nil {
		return err
	}
	return c.success(http.StatusCreated)
}

func (c *call) serveScale() error {
	accept, err := negotiate(c.r)
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	switch c.verb {
	case "get":
		v, err := c.Objects.Get(ctx, c.request("", nil), c.r.URL.Query().Get("resourceVersion"))
		if err != nil {
			return err
		}
		obj, err := c.Objects.Decode(c.kind, v)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if c.kind.Scale.Check != nil {
			if err := c.kind.Scale.Check(obj); err != nil {
				return apierrors.NewInternalError(err)
			}
		}
		return c.writeScale(accept, objects.ScaleOf(c.kind, obj))
	case "update":
		var o metav1.UpdateOptions
		if err := c.options(&o); err != nil {
			return err
		}
		encoding, err := bodyEncoding(c.r)
		if err != nil {
			return err
		}
		data, err := c.body()
		if err != nil {
			return err
		}
		r := c.request(o.FieldManager, o.DryRun)
		scale, err := objects.DecodeOther(r, data, encoding, objects.FieldValidation(o.FieldValidation), &autoscalingv1.Scale{}, objects.ScaleKind)
		if err != nil {
			return err
		}
		c.record.Request(scale)
		updated, err := c.Objects.UpdateScale(ctx, r, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return scale, nil })
		if err != nil {
			return err
		}
		return c.writeScale(accept, updated)
	case "patch":
		r, patch, err := c.readPatch()
		if err != nil {
			return err
		}
		updated, err := c.Objects.PatchScale(ctx, r, patch)
		if err != nil {
			return err
		}
		return c.writeScale(accept, updated)
	}
	return apierrors.NewMethodNotSupported(c.kind.GroupResource(), c.verb)
}

// writeScale responds with a Scale, in the form that the Accept header asks for.
func (c *call) writeScale(a accepted, scale *autoscalingv1.Scale) error {
	switch a.as {
	case asTable:
		options, err := c.tableOptions()
		if err != nil {
			return err
		}
		internal := &autoscaling.Scale{}
		if err := registry.Scheme.Convert(scale, internal, nil); err != nil {
			return apierrors.NewInternalError(err)
		}
		table, err := c.tables.generator.GenerateTable(internal, printers.GenerateOptions{Wide: true, NoHeaders: options.NoHeaders})
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		table.TypeMeta = tableType
		table.ResourceVersion = scale.ResourceVersion
		for i := range table.Rows {
			table.Rows[i].Object = includedIn(options, scale)
		}
		return c.writeOther(a, http.StatusOK, table)
	case asMetadata:
		return c.writeOther(a, http.StatusOK, metadataOf(scale))
	}
	return c.writeOther(a, http.StatusOK, scale)
}
