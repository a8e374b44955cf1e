// Creates, watches and changes objects through the gRPC API, from the published .proto files alone, and prints what it saw as JSON. The
// test TestNodeSpeaksGRPC in test/e2e runs it and checks that.
//
//   ENDPOINT=HOST:PORT CA=FILE CERT=FILE KEY=FILE NAMESPACE=NAME node test.js
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const protos = path.join(__dirname, '..', '..', 'proto');
const definition = loader.loadSync('kontiki/v1/objects.proto', { includeDirs: [protos], keepCase: true, enums: String, longs: String, defaults: true });
const { Objects } = grpc.loadPackageDefinition(definition).kontiki.v1;

// Details of errors are messages within messages.
const root = new protobuf.Root();
root.resolvePath = (_, target) =>
  target.startsWith('google/protobuf/') ? path.join(path.dirname(require.resolve('protobufjs')), target) : target.startsWith('kontiki/') ? path.join(protos, target) : target;
root.loadSync([path.join(__dirname, 'errors.proto'), 'kontiki/v1/objects.proto'], { keepCase: true });

// detailsOf decodes the details of an error, by the name of their message.
function detailsOf(error) {
  const details = {};
  const [raw] = error.metadata.get('grpc-status-details-bin');
  for (const { type_url, value } of root.lookupType('google.rpc.Status').decode(raw).details) {
    const name = type_url.slice(type_url.lastIndexOf('/') + 1);
    const type = root.lookup(name);
    if (type !== null) details[name] = type.toObject(type.decode(value), { defaults: true });
  }
  const { status } = details['kontiki.v1.StatusDetail'];
  return {
    code: grpc.status[error.code],
    message: error.details,
    reason: details['google.rpc.ErrorInfo'].reason,
    domain: details['google.rpc.ErrorInfo'].domain,
    status: JSON.parse(Buffer.from(status).toString()),
    operation: details['kontiki.v1.TransactionDetail']?.operation,
    resourceVersion: details['kontiki.v1.ConflictDetail']?.resource_version,
  };
}

const read = (name) => fs.readFileSync(process.env[name]);
const client = new Objects(process.env.ENDPOINT, grpc.credentials.createSsl(read('CA'), read('KEY'), read('CERT')));
const namespace = process.env.NAMESPACE;
const kind = { group: '', version: 'v1', kind: 'ConfigMap' };
const reference = (name) => ({ kind, namespace, name });
const selector = 'from=node';

// call makes a call with a deadline, as a promise.
const call = (method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, { deadline: Date.now() + 20000 }, (error, answer) => (error ? reject(error) : resolve(answer))));

// refused is the decoded error of a call that must fail.
async function refused(method, request) {
  try {
    await call(method, request);
  } catch (error) {
    return detailsOf(error);
  }
  return assert.fail(`${method} must be refused`);
}

const json = (object) => ({ kind, encoding: 'ENCODING_JSON', data: Buffer.from(JSON.stringify(object)) });
const configMap = (name, data) => json({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace, labels: { from: 'node' } }, data });
const decoded = (object) => JSON.parse(object.data.toString());

// watch gathers events until done says that it has seen enough.
function watch(done) {
  const events = [];
  const stream = client.Watch({ kind, namespace, label_selector: selector, send_initial_events: true, encoding: 'ENCODING_JSON' }, { deadline: Date.now() + 60000 });
  let synced;
  const begun = new Promise((resolve) => { synced = resolve; });
  const ended = new Promise((resolve, reject) => {
    stream.on('data', (event) => {
      if (event.initial_events_end) return synced();
      events.push({ type: event.type, name: event.object.name, colour: decoded(event.object).data?.colour, revision: event.resource_version });
      if (done(events)) {
        stream.cancel();
        resolve(events);
      }
    });
    stream.on('error', (error) => error.code !== grpc.status.CANCELLED && reject(error));
    stream.on('end', () => reject(new Error('the watch ended')));
  });
  return { begun, ended };
}

function list() {
  return new Promise((resolve, reject) => {
    const names = [];
    const stream = client.List({ kind, namespace, label_selector: selector, page_size: 1 }, { deadline: Date.now() + 20000 });
    let pages = 0;
    stream.on('data', (page) => { pages++; names.push(...page.objects.map((o) => o.name)); });
    stream.on('error', reject);
    stream.on('end', () => resolve({ names, pages }));
  });
}

async function main() {
  const seen = watch((events) => events.some((e) => e.type === 'TYPE_DELETED'));
  await Promise.race([seen.begun, seen.ended]);

  const { object: first } = await call('Create', { object: configMap('first', { colour: 'red' }), options: { field_manager: 'node' } });
  const { object: got } = await call('Get', { reference: reference('first'), encoding: 'ENCODING_JSON' });
  assert.deepStrictEqual(decoded(got), decoded(first));
  assert.strictEqual(decoded(got).metadata.uid, first.uid);

  const { results } = await call('Transact', {
    encoding: 'ENCODING_JSON',
    operations: [
      { check: { reference: reference('freeze') } }, // must not exist
      { create: { object: configMap('second', { colour: 'green' }) } },
      { patch: { reference: reference('first'), type: 'PATCH_TYPE_MERGE', patch: Buffer.from('{"data":{"colour":"blue"}}') } },
    ],
  });
  assert.strictEqual(results.length, 3);
  assert.strictEqual(results[0].object, null);
  assert.strictEqual(results[1].created, true);
  assert.strictEqual(decoded(results[2].object).data.colour, 'blue');
  const listed = await list();

  const errors = {
    // The first operation is well, the second is not: nothing happens.
    transaction: await refused('Transact', {
      operations: [
        { create: { object: configMap('never', {}) } },
        { check: { reference: reference('first'), resource_version: first.resource_version } },
      ],
    }),
    conflict: await refused('Update', {
      object: json({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'first', namespace, resourceVersion: first.resource_version } }),
    }),
    invalid: await refused('Create', { object: configMap('Not_A_Name', {}) }),
    missing: await refused('Get', { reference: reference('never') }),
  };
  const deleted = await call('Delete', { reference: reference('second') });
  assert.strictEqual(deleted.gone, true);
  console.log(JSON.stringify({ events: await seen.ended, listed, errors, revision: results[2].object.resource_version }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1); // whatever is still open
}).finally(() => client.close());
