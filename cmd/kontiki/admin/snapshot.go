package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/kv"
)

func snapshotCommand() *cobra.Command {
	var kubeconfig, output string
	cmd := &cobra.Command{Use: "snapshot", Short: "Back up the cluster's state, and restore it"}
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "", "json")
	var force bool
	save := &cobra.Command{Use: "save FILE", Short: "Save the present state of the whole cluster, from any master", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := saveSnapshot(cmd.Context(), kubeconfig, args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				return PrintJSON(info)
			}
			fmt.Printf("saved revision %d (%d objects) to %s\n", info.Revision, info.Objects, args[0])
			return nil
		}}
	restore := &cobra.Command{Use: "restore FILE", Short: "Make the state of the whole running cluster equal to a snapshot",
		Long: "Make the state of the whole running cluster equal to a snapshot. Everything written since is lost. All masters switch to the\n" +
			"restored state together, workers start and stop pods accordingly, and nothing has to be stopped before.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			restored, err := restoreSnapshot(cmd.Context(), kubeconfig, args[0], force)
			if err != nil {
				return err
			}
			if output == "json" {
				return PrintJSON(restored)
			}
			fmt.Printf("restored revision %d of %s (%d objects) as revision %d, epoch %d\n", restored.Backup.Revision,
				restored.Backup.CreatedAt.Format(time.RFC3339), restored.Backup.Objects, restored.Revision, restored.Epoch.Number)
			return nil
		}}
	restore.Flags().BoolVar(&force, "force", false, "restore a snapshot of another cluster, whose Secrets cannot be read here")
	inspect := &cobra.Command{Use: "inspect FILE", Short: "Check a snapshot, and show its content (no secrets)", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			contents, err := inspectSnapshot(args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				return PrintJSON(contents)
			}
			return contents.print(os.Stdout)
		}}
	cmd.AddCommand(save, restore, inspect)
	return cmd
}

// saveSnapshot writes a complete, checked and synced file, or none.
func saveSnapshot(ctx context.Context, kubeconfig, path string) (info backup.Info, err error) {
	c, err := newClient(kubeconfig)
	if err != nil {
		return info, err
	}
	body, err := c.do(ctx, http.MethodGet, SnapshotPath, nil)
	if err != nil {
		return info, err
	}
	defer body.Close()
	file, err := os.CreateTemp(filepath.Dir(path), ".snapshot-*.tmp")
	if err != nil {
		return info, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("save %s: %w", path, err), file.Close(), os.Remove(file.Name()))
		}
	}()
	received := io.TeeReader(body, file)
	if info, err = backup.Read(received, nil); err != nil {
		return info, err
	}
	if err := file.Sync(); err != nil {
		return info, err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return info, err
	}
	return info, errors.Join(file.Close(), durable.SyncDir(filepath.Dir(path)))
}

func restoreSnapshot(ctx context.Context, kubeconfig, path string, force bool) (*backup.Restored, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := backup.Read(file, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	c, err := newClient(kubeconfig)
	if err != nil {
		return nil, err
	}
	target := SnapshotPath + "/restore"
	if force {
		target += "?force=true"
	}
	body, err := c.do(ctx, http.MethodPost, target, file)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	restored := new(backup.Restored)
	return restored, json.NewDecoder(body).Decode(restored)
}

// contents is what `snapshot inspect` shows.
type contents struct {
	backup.Info
	File  string         `json:"file"`
	Bytes int64          `json:"bytes"`
	Kinds []kindContents `json:"kinds"`
}

type kindContents struct {
	Resource string `json:"resource"` // resource.group
	Objects  int    `json:"objects"`
	Bytes    int64  `json:"bytes"`
}

func inspectSnapshot(path string) (*contents, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	byResource := map[string]*kindContents{}
	info, err := backup.Read(file, func(v *kv.Version) error {
		name := resourceOf(v.Key)
		k := byResource[name]
		if k == nil {
			k = &kindContents{Resource: name}
			byResource[name] = k
		}
		k.Objects++
		k.Bytes += int64(len(v.Value))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c := &contents{Info: info, File: path, Bytes: stat.Size()}
	for _, k := range byResource {
		c.Kinds = append(c.Kinds, *k)
	}
	slices.SortFunc(c.Kinds, func(a, b kindContents) int { return strings.Compare(a.Resource, b.Resource) })
	return c, nil
}

// resourceOf returns the resource that a key of the store belongs to, in kubectl's notation.
func resourceOf(key string) string {
	parts := strings.SplitN(key, "/", 4)
	switch {
	case len(parts) < 3:
		return "(other)"
	case parts[1] == "deleted":
		return "(deleted objects)"
	case parts[1] == "quota":
		return "(counters of quotas)"
	case parts[1] == "kontiki":
		return "(the cluster's own: " + parts[2] + ")"
	case parts[1] == "" || parts[1] == "core":
		return parts[2]
	}
	return parts[2] + "." + parts[1]
}

func (c *contents) print(out io.Writer) error {
	fmt.Fprintf(out, "File:        %s (%d bytes, checked)\n", c.File, c.Bytes)
	fmt.Fprintf(out, "Cluster:     %s, epoch %d\n", c.ClusterID, c.Epoch)
	fmt.Fprintf(out, "Created:     %s by %s (%s)\n", c.CreatedAt.Format(time.RFC3339), c.Master, c.Version)
	fmt.Fprintf(out, "Revision:    %d\n", c.Revision)
	fmt.Fprintf(out, "Objects:     %d\n\n", c.Objects)
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "RESOURCE\tOBJECTS\tBYTES")
	for _, k := range c.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%d\n", k.Resource, k.Objects, k.Bytes)
	}
	return w.Flush()
}
