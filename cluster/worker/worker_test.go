package worker

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// TestAWorkerStartsWithEveryMasterGone: what it needs is on its disk. That a directory is another's, or empty, is an error that says so.
func TestAWorkerStartsWithEveryMasterGone(t *testing.T) {
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := pki.NewRequest("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	client, serving, err := ca.SignWorker(csr, "worker-1", []string{"worker-1", "10.0.0.2"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	doc := &Document{Version: 1, Name: "worker-1", Key: key, Masters: []string{"127.0.0.1:1"}}
	doc.take(&clusterv1.JoinWorkerResponse{
		ClientCertificate: client, ServingCertificate: serving, CaCertificate: ca.CertPEM(), GossipKeys: [][]byte{make([]byte, 32)}, Masters: []string{"127.0.0.1:1"},
	}, []string{"10.0.0.2"})
	if err := doc.save(dir); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Name: "worker-1", Dir: dir, Addresses: []string{"10.0.0.2"}, Logger: slog.New(slog.DiscardHandler)}
	w, err := Join(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := pki.ParsePeer(w.Client().Leaf)
	if err != nil || peer.Name != "worker-1" || peer.Role != pki.RoleWorker || w.Issuer() != ca.Pin() {
		t.Errorf("it is %+v, %v, by the CA %s", peer, err, w.Issuer())
	}
	cfg.Name = "worker-2"
	if _, err := Join(t.Context(), cfg); err == nil {
		t.Error("another worker took the directory")
	}
	cfg.Dir = t.TempDir()
	if _, err := Join(t.Context(), cfg); !errors.Is(err, errclass.ErrToken) {
		t.Errorf("an empty directory and no token: %v", err)
	}
}
