package registry

// Kinds is the table of every kind that is served. A new kind is a function that returns its row, named here.
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
	)
}
