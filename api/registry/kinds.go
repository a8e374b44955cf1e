package registry

// Kinds returns the table of all served kinds. To add a kind, write a function that returns its row, and list it here.
func Kinds() *Table {
	coreEvents := events()
	return NewTable(
		namespaces(),
		nodes(),
		pods(),
		services(),
		endpoints(),
		configMaps(),
		secrets(),
		serviceAccounts(),
		coreEvents,
		newEvents(coreEvents),
		podTemplates(),
		replicationControllers(),
		replicaSets(),
		deployments(),
		endpointSlices(),
		leases(),
		roles(),
		roleBindings(),
		clusterRoles(),
		clusterRoleBindings(),
	)
}
