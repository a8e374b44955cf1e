package migration

import (
	"context"
	"fmt"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
)

// The definition of a custom resource says in its condition StorageMigrating that its objects are being migrated, and of which generation. If it
// is of the same generation after the migration, its status.storedVersions become the storage version alone, so that older versions can be
// removed from its spec.

// begin sets the condition of the resource's definition, if it has one.
func (m *migrator) begin(ctx context.Context, s *storagemigrationv1.StorageVersionMigration) error {
	return m.changeDefinition(ctx, s, func(crd *apiextensionsv1.CustomResourceDefinition) {
		m.setStorageMigrating(crd, apiextensionsv1.ConditionTrue, reasonRunning, fmt.Sprintf("Migration %s is running", s.Name))
	})
}

// end sets what follows from the migration for the resource's definition, if it has one.
func (m *migrator) end(ctx context.Context, s *storagemigrationv1.StorageVersionMigration) error {
	return m.changeDefinition(ctx, s, func(crd *apiextensionsv1.CustomResourceDefinition) {
		if !condition(s, storagemigrationv1.MigrationSucceeded) {
			m.setStorageMigrating(crd, apiextensionsv1.ConditionFalse, "MigrationFailed", "The migration has failed")
			return
		}
		message := "The migration has succeeded but the stored versions have not been updated due to a generation mismatch"
		if c := apihelpers.FindCRDCondition(crd, apiextensionsv1.StorageMigrating); c != nil && c.ObservedGeneration == crd.Generation {
			message = "The migration has succeeded and the stored versions have been updated"
			for _, version := range crd.Spec.Versions {
				if version.Storage {
					crd.Status.StoredVersions = []string{version.Name}
				}
			}
		}
		m.setStorageMigrating(crd, apiextensionsv1.ConditionFalse, "MigrationSucceeded", message)
	})
}

// changeDefinition stores a change of the status of a resource's definition. A conflict is an error, as the change depends on the spec.
func (m *migrator) changeDefinition(ctx context.Context, s *storagemigrationv1.StorageVersionMigration, change func(*apiextensionsv1.CustomResourceDefinition)) error {
	crd, ok := client.Get[*apiextensionsv1.CustomResourceDefinition](m.c.View(), "", s.Spec.Resource.Resource+"."+s.Spec.Resource.Group)
	if !ok {
		return nil
	}
	crd = crd.DeepCopy()
	change(crd)
	if _, err := client.UpdateStatus(ctx, m.c, crd); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("definition %s: %w", crd.Name, err)
	}
	return nil
}

func (m *migrator) setStorageMigrating(crd *apiextensionsv1.CustomResourceDefinition, status apiextensionsv1.ConditionStatus, reason, message string) {
	apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.StorageMigrating, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(m.now()),
	})
	apihelpers.FindCRDCondition(crd, apiextensionsv1.StorageMigrating).ObservedGeneration = crd.Generation
}
