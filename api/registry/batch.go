package registry

import (
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
)

func cronJobs() *Resource {
	return follow(&Resource{
		Group: "batch", Kind: "CronJob", Resource: "cronjobs", ShortNames: []string{"cj"}, Categories: []string{"all"},
	}, cronjob.Strategy, cronjob.StatusStrategy)
}
