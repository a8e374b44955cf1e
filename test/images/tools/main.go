// Command tools is the network client and server in the tests' images. It is static, so that it needs no libraries for name
// resolution (Debian's static busybox cannot resolve names).
//
//	tools alone FOLDER            wait for SIGTERM, and write into FOLDER/twice if another one runs with this host name
//	tools exit CODE               print the pod's host name and completion index, and end with a code
//	tools extend FOLDER           be an extension API server, with the certificate FOLDER/tls.crt: see extend.go
//	tools get [-n TIMES] URL      print the bodies
//	tools lookup NAME             print the addresses of a name
//	tools review FOLDER           be an admission webhook, with the certificate FOLDER/tls.crt: see review.go
//	tools serve [ADDRESS]         respond to every request with the host's name; to / only while /tmp/unready is absent
//	tools sleep                   wait for SIGTERM
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("tools: alone, exit, extend, get, lookup, review, serve or sleep?")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch os.Args[1] {
	case "alone":
		err = alone(ctx, os.Args[2])
	case "exit":
		err = exit(os.Args[2:])
	case "extend":
		err = extend(os.Args[2])
	case "get":
		err = get(ctx, os.Args[2:])
	case "lookup":
		err = lookup(ctx, os.Args[2:])
	case "review":
		err = review(os.Args[2])
	case "serve":
		err = serve(ctx, append(os.Args[2:], ":8080")[0])
	case "sleep":
		<-ctx.Done()
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		log.Fatalf("tools: %v", err)
	}
}

// alone holds a lock on FOLDER/HOSTNAME, which the kernel releases when the process ends in any way.
func alone(ctx context.Context, folder string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		told, openErr := os.OpenFile(filepath.Join(folder, "twice"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
		if openErr != nil {
			return openErr
		}
		defer told.Close()
		fmt.Fprintf(told, "%s: %v\n", name, err)
	}
	<-ctx.Done()
	return nil
}

// exit ends with a code, after it has printed which pod of a Job this is.
func exit(args []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	fmt.Printf("%s has the index %s\n", name, os.Getenv("JOB_COMPLETION_INDEX"))
	os.Exit(code)
	return nil
}

func get(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("get", flag.ExitOnError)
	times := flags.Int("n", 1, "how often")
	timeout := flags.Duration("t", 5*time.Second, "how long each may take")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for range *times {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, flags.Arg(0), nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", response.Status, body)
		}
		os.Stdout.Write(append(body, '\n'))
	}
	return nil
}

func lookup(ctx context.Context, args []string) error {
	addresses, err := net.DefaultResolver.LookupHost(ctx, args[0])
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}

func serve(ctx context.Context, address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat("/tmp/unready"); err == nil {
			http.Error(w, "unready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, name)
	})}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			log.Printf("shut down: %v", err)
		}
	}()
	log.Printf("listening on %s", address)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}
