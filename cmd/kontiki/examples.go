package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples are those of the commands that --help and the manual pages show, by the commands' names; a line each.
var examples = map[string]string{
	"server": "kontiki server\n" +
		"kontiki server --join host-1:6444 --token K10...\n" +
		"kontiki server --no-agent --node-ip 10.0.0.11 --tls-san kontiki.example.com",
	"agent": "kontiki agent --join host-1:6444,host-2:6444 --token K10...",
	"dev": "kontiki dev --detach\n" +
		"kontiki dev --masters 1 --workers 1 --publish 8080:30080\n" +
		"kontiki dev --workers 0 --hollow 200",
	"dev kill":                        "kontiki dev kill master-1",
	"dev start":                       "kontiki dev start master-1\nkontiki dev start master-1 --kontiki ./kontiki-next",
	"dev status":                      "kontiki dev status",
	"dev stop":                        "kontiki dev stop worker-1\nkontiki dev stop --purge",
	"hollow":                          "kontiki hollow --count 500 --addresses 10.9.0.0/16 --join host-1:6444 --token K10...",
	"kubectl":                         "kontiki kubectl get pods -A",
	"cluster status":                  "kontiki cluster status\nkontiki cluster status -o json",
	"cluster members":                 "kontiki cluster members",
	"cluster transfer":                "kontiki cluster transfer\nkontiki cluster transfer master-2",
	"cluster remove":                  "kontiki cluster remove master-3",
	"cluster recover":                 "kontiki cluster recover\nkontiki cluster recover --yes",
	"cluster certs":                   "kontiki cluster certs",
	"cluster certs renew":             "kontiki cluster certs renew",
	"cluster certs revoke":            "kontiki cluster certs revoke worker-1",
	"cluster certs rotate-ca":         "kontiki cluster certs rotate-ca\nkontiki cluster certs rotate-ca --finish",
	"cluster certs rotate-gossip-key": "kontiki cluster certs rotate-gossip-key",
	"cluster certs rotate-secret-key": "kontiki cluster certs rotate-secret-key",
	"cluster certs rotate-token-key":  "kontiki cluster certs rotate-token-key\nkontiki cluster certs rotate-token-key --finish",
	"secrets rotate":                  "kontiki secrets rotate\nkontiki secrets rotate --finish",
	"secrets status":                  "kontiki secrets status",
	"snapshot save":                   "kontiki snapshot save /backup/cluster.backup",
	"snapshot inspect":                "kontiki snapshot inspect /backup/cluster.backup",
	"snapshot restore":                "kontiki snapshot restore /backup/cluster.backup",
	"token create":                    "kontiki token create --role master\nkontiki token create --role worker --ttl 1h",
	"token list":                      "kontiki token list",
	"token revoke":                    "kontiki token revoke ID",
	"image list":                      "kontiki image list",
	"image import":                    "kontiki image import images.tar",
	"image export":                    "kontiki image export docker.io/library/nginx:1.27 nginx.tar",
	"image pull":                      "kontiki image pull docker.io/library/nginx:1.27",
	"image remove":                    "kontiki image remove docker.io/library/nginx:1.27",
}

// addExamples gives the commands below c their examples.
func addExamples(c *cobra.Command) {
	for _, sub := range c.Commands() {
		addExamples(sub)
		if text, ok := examples[strings.TrimPrefix(sub.CommandPath(), "kontiki ")]; ok && sub.Example == "" {
			sub.Example = "  " + strings.ReplaceAll(text, "\n", "\n  ")
		}
	}
}
