package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/internal/bytesize"
	"github.com/kontiki/kontiki/node/server"
)

// imageOptions are common to the commands about images.
type imageOptions struct {
	kubeconfig string
	nodes      []string
}

// imageCommand manages the images of all nodes, through the API.
func imageCommand() *cobra.Command {
	var o imageOptions
	cmd := &cobra.Command{Use: "image", Short: "List, import, export, pull and remove images on the cluster's nodes"}
	cmd.PersistentFlags().StringVar(&o.kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.PersistentFlags().StringSliceVar(&o.nodes, "node", nil, "the nodes (default: all)")
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "List the images of the nodes", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return listImages(cmd.Context(), o, cmd.OutOrStdout()) }},
		&cobra.Command{Use: "import FILE.tar", Short: "Import an OCI or Docker archive on every node (for machines without a registry)",
			Long: `Import an OCI or Docker archive on every node, for machines without a registry.

While its registry cannot be reached, an imported image is also used by pods whose image is pulled at each start (imagePullPolicy:
Always, the default for images without a tag). If the registry can be reached, its image is used.`, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return o.each(cmd.Context(), cmd.OutOrStdout(), 1, "import into", func(ctx context.Context, core rest.Interface, node string) (string, error) {
					return importInto(ctx, core, node, args[0])
				})
			}},
		&cobra.Command{Use: "pull IMAGE", Short: "Pull an image on every node, without credentials", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return o.each(cmd.Context(), cmd.OutOrStdout(), 4, "pull on", func(ctx context.Context, core rest.Interface, node string) (string, error) {
					return onImage(ctx, imageRequest(core.Post(), node, "kontiki/images/pull").Param("image", args[0]), "pulled")
				})
			}},
		&cobra.Command{Use: "remove IMAGE", Short: "Remove an image from every node, unless a pod uses it there", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return o.each(cmd.Context(), cmd.OutOrStdout(), 4, "remove from", func(ctx context.Context, core rest.Interface, node string) (string, error) {
					return onImage(ctx, imageRequest(core.Delete(), node, "kontiki/images").Param("image", args[0]), "removed")
				})
			}},
		&cobra.Command{Use: "export IMAGE FILE.tar", Short: "Write an image of the first node that has it to an archive", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return exportImage(cmd.Context(), o, args[0], args[1], cmd.OutOrStdout())
			}},
	)
	return cmd
}

// connect returns a client and the names of the nodes to work on.
func (o imageOptions) connect(ctx context.Context) (rest.Interface, []string, error) {
	config, err := Config(o.kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, err
	}
	if len(o.nodes) > 0 {
		return set.CoreV1().RESTClient(), o.nodes, nil
	}
	nodes, err := set.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, err
	}
	if len(nodes.Items) == 0 {
		return nil, nil, fmt.Errorf("the cluster has no nodes")
	}
	var names []string
	for _, n := range nodes.Items {
		names = append(names, n.Name)
	}
	return set.CoreV1().RESTClient(), names, nil
}

// each calls a function for every node, for so many at once, and prints a line when it has succeeded on one. The error has the nodes on
// which it failed.
func (o imageOptions) each(ctx context.Context, out io.Writer, atOnce int, doing string, do func(ctx context.Context, core rest.Interface, node string) (string, error)) error {
	core, names, err := o.connect(ctx)
	if err != nil {
		return err
	}
	return eachNode(names, out, atOnce, doing, func(node string) (string, error) { return do(ctx, core, node) })
}

func eachNode(names []string, out io.Writer, atOnce int, doing string, do func(node string) (string, error)) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := make([]error, len(names))
	slots := make(chan struct{}, atOnce)
	for i, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			said, err := do(name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[i] = fmt.Errorf("%s %s: %w", doing, name, err)
				fmt.Fprintf(out, "%s: failed\n", name)
				return
			}
			fmt.Fprintf(out, "%s: %s in %.1f s\n", name, said, time.Since(began).Seconds())
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

func imageRequest(verb *rest.Request, node, path string) *rest.Request {
	return verb.Resource("nodes").Name(node).SubResource("proxy").Suffix(path)
}

// ownText returns the text of a node's agent if that is what an error has.
func ownText(err error) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) && status.ErrStatus.Details != nil {
		for _, cause := range status.ErrStatus.Details.Causes { // what is no Status object is the agent's own text
			if text := strings.TrimSpace(cause.Message); cause.Type == metav1.CauseTypeUnexpectedServerResponse && text != "" {
				return errors.New(text)
			}
		}
	}
	return err
}

// onImage sends a request about one image and returns what was done.
func onImage(ctx context.Context, request *rest.Request, did string) (string, error) {
	body, err := request.DoRaw(ctx)
	if err != nil {
		return "", ownText(err)
	}
	var image server.LocalImage
	if err := json.Unmarshal(body, &image); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s (%s)", did, nameOf(image), bytesize.Text(float64(image.Size))), nil
}

// importInto sends an image archive to a node's agent.
func importInto(ctx context.Context, core rest.Interface, node, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	body, err := imageRequest(core.Post(), node, "kontiki/images").SetHeader("Content-Type", "application/x-tar").Body(file).DoRaw(ctx)
	if err != nil {
		return "", ownText(err)
	}
	var images []server.ImportedImage
	if err := json.Unmarshal(body, &images); err != nil {
		return "", err
	}
	var names []string
	for _, i := range images {
		names = append(names, nameOf(server.LocalImage{ID: i.ID, Tags: i.Tags}))
	}
	return "imported " + strings.Join(names, ", "), nil
}

// exportImage writes an archive, whole or not at all.
func exportImage(ctx context.Context, o imageOptions, image, path string, out io.Writer) error {
	core, names, err := o.connect(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, node := range names {
		n, err := exportFrom(ctx, core, node, image, path)
		if err == nil {
			fmt.Fprintf(out, "%s: exported %s (%s)\n", node, image, bytesize.Text(float64(n)))
			return nil
		}
		failed = append(failed, fmt.Errorf("export from %s: %w", node, err))
	}
	return errors.Join(failed...)
}

func exportFrom(ctx context.Context, core rest.Interface, node, image, path string) (n int64, err error) {
	stream, err := imageRequest(core.Get(), node, "kontiki/images/archive").Param("image", image).Stream(ctx)
	if err != nil {
		return 0, ownText(err)
	}
	defer stream.Close()
	file, err := os.OpenFile(path+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(file, stream)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(path+".part", path)
	}
	if err != nil {
		_ = os.Remove(path + ".part")
	}
	return n, err
}

func listImages(ctx context.Context, o imageOptions, out io.Writer) error {
	core, names, err := o.connect(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	byNode := map[string][]server.LocalImage{}
	err = eachNode(names, io.Discard, 8, "list images of", func(node string) (string, error) {
		body, err := imageRequest(core.Get(), node, "kontiki/images").DoRaw(ctx)
		if err != nil {
			return "", ownText(err)
		}
		var images []server.LocalImage
		if err := json.Unmarshal(body, &images); err != nil {
			return "", err
		}
		mu.Lock()
		defer mu.Unlock()
		byNode[node] = images
		return "", nil
	})
	return errors.Join(err, printImages(out, byNode))
}

// printImages prints a line for each image, with the nodes that have it.
func printImages(out io.Writer, byNode map[string][]server.LocalImage) error {
	type row struct {
		server.LocalImage
		nodes []string
	}
	rows := map[string]*row{}
	for node, images := range byNode {
		for _, i := range images {
			key := nameOf(i) + i.ID
			if rows[key] == nil {
				rows[key] = &row{LocalImage: i}
			}
			rows[key].nodes = append(rows[key].nodes, node)
			rows[key].Imported = rows[key].Imported || i.Imported
		}
	}
	var sorted []*row
	for _, r := range rows {
		slices.Sort(r.nodes)
		sorted = append(sorted, r)
	}
	slices.SortFunc(sorted, func(a, b *row) int {
		return cmp.Or(cmp.Compare(nameOf(a.LocalImage), nameOf(b.LocalImage)), cmp.Compare(a.ID, b.ID))
	})
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tID\tSIZE\tORIGIN\tNODES")
	for _, r := range sorted {
		origin := "pulled"
		if r.Imported {
			origin = "imported"
		}
		where := strings.Join(r.nodes, ",")
		if len(r.nodes) == len(byNode) && len(byNode) > 1 {
			where = fmt.Sprintf("all %d", len(byNode))
		}
		id := strings.TrimPrefix(r.ID, "sha256:")
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", nameOf(r.LocalImage), id[:min(len(id), 12)], bytesize.Text(float64(r.Size)), origin, where)
	}
	return table.Flush()
}

// nameOf returns an image's tags, or else a digest or its ID.
func nameOf(i server.LocalImage) string {
	switch {
	case len(i.Tags) > 0:
		tags := slices.Clone(i.Tags)
		slices.Sort(tags)
		return strings.Join(tags, ",")
	case len(i.Digests) > 0:
		return i.Digests[0]
	}
	return i.ID
}
