// Package admin has the commands for people who administer a cluster or work with it: most talk to the API of a running cluster, those for
// join tokens and for recovery work on a master's host. It also has the documents of the masters' administration paths.
package admin

import "github.com/spf13/cobra"

// Commands returns the commands.
func Commands() []*cobra.Command {
	return []*cobra.Command{
		statusCommand(), topCommand(), cisCommand(), debugCommand(), clusterCommand(), applyCommand(), undeleteCommand(), whyCommand(), traceCommand(), adviseCommand(), tokenCommand(), secretsCommand(), imageCommand(), kubectlCommand(), snapshotCommand(),
	}
}
