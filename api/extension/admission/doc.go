// Package admission has the steps of admission that are configured by objects: webhooks (MutatingWebhookConfiguration,
// ValidatingWebhookConfiguration) and policies (MutatingAdmissionPolicy, ValidatingAdmissionPolicy and their bindings), of
// admissionregistration.k8s.io/v1, as KEP-3488, KEP-3962 and upstream's documentation of dynamic admission control describe them.
//
// What applies to a write is read from the view that the write is prepared against: so a write sees every configuration that its master has
// applied, and no goroutine follows the store. What a configuration compiles to is kept as long as its stored version stays; so is, for each
// resource, subresource and operation, which hooks can concern it. With no configuration a write pays for one look at an empty range of keys.
//
//   - configured.go: from the stored objects to hooks; plan.go: which of them concern a request
//   - package webhooks calls webhooks; policies evaluates policies; attributes shows a request to upstream's packages
package admission
