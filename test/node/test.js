// Creates, watches and changes objects through the gRPC API, by stubs generated from the published .proto files (gen, `make generate`), and prints what it saw as JSON. The
// test TestNodeSpeaksGRPC in test/e2e runs it and checks that.
//
//   ENDPOINT=HOST:PORT CA=FILE CERT=FILE KEY=FILE NAMESPACE=NAME node test.js
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');
const { Status, ErrorInfo, BadRequest } = require('./gen/errors');
const { ObjectsClient } = require('./gen/kontiki/v1/objects.grpc-client');
const v1 = require('./gen/kontiki/v1/objects');

const { Encoding, PatchType, WatchResponse_Type: Type } = v1;

// detailsOf decodes the details of an error.
function detailsOf(error) {
  const [raw] = error.metadata.get('grpc-status-details-bin');
  const { details } = Status.fromBinary(raw);
  const detail = (type) => {
    const any = details.find(({ typeUrl }) => typeUrl.endsWith(`/${type.typeName}`));
    return any && type.fromBinary(any.value);
  };
  const { reason, domain } = detail(ErrorInfo);
  return {
    code: grpc.status[error.code],
    message: error.details,
    reason,
    domain,
    fields: detail(BadRequest)?.fieldViolations.map(({ field }) => field),
    status: JSON.parse(Buffer.from(detail(v1.StatusDetail).status).toString()),
    operation: detail(v1.TransactionDetail)?.operation,
    resourceVersion: detail(v1.ConflictDetail)?.resourceVersion,
  };
}

const read = (name) => fs.readFileSync(process.env[name]);
const client = new ObjectsClient(process.env.ENDPOINT, grpc.credentials.createSsl(read('CA'), read('KEY'), read('CERT')));
const namespace = process.env.NAMESPACE;
const kind = { group: '', version: 'v1', kind: 'ConfigMap' };
const reference = (name) => ({ kind, namespace, name });
const selector = 'from=node';

const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });
const none = new grpc.Metadata();

// requests are the messages of the methods that call makes.
const requests = { get: v1.GetRequest, create: v1.CreateRequest, update: v1.UpdateRequest, delete: v1.DeleteRequest, transact: v1.TransactRequest };

// call makes a call with a deadline, as a promise.
const call = (method, request) =>
  new Promise((resolve, reject) =>
    client[method](requests[method].create(request), none, within(20), (error, answer) => (error ? reject(error) : resolve(answer))));

// refused is the decoded error of a call that must fail.
async function refused(method, request) {
  try {
    await call(method, request);
  } catch (error) {
    return detailsOf(error);
  }
  return assert.fail(`${method} must be refused`);
}

const json = (object) => ({ kind, encoding: Encoding.JSON, data: Buffer.from(JSON.stringify(object)) });
const configMap = (name, data) => json({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace, labels: { from: 'node' } }, data });
const decoded = (object) => JSON.parse(Buffer.from(object.data).toString());

// watch gathers events until done says that it has seen enough.
function watch(done) {
  const events = [];
  const stream = client.watch(v1.WatchRequest.create({ kind, namespace, labelSelector: selector, sendInitialEvents: true, encoding: Encoding.JSON }), none, within(60));
  let synced;
  const begun = new Promise((resolve) => { synced = resolve; });
  const ended = new Promise((resolve, reject) => {
    stream.on('data', (event) => {
      if (event.initialEventsEnd) return synced();
      events.push({ type: Type[event.type], name: event.object.name, colour: decoded(event.object).data?.colour, revision: event.resourceVersion });
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
    const stream = client.list(v1.ListRequest.create({ kind, namespace, labelSelector: selector, pageSize: 1 }), none, within(20));
    let pages = 0;
    stream.on('data', (page) => { pages++; names.push(...page.objects.map((o) => o.name)); });
    stream.on('error', reject);
    stream.on('end', () => resolve({ names, pages }));
  });
}

async function main() {
  const seen = watch((events) => events.some((e) => e.type === 'DELETED'));
  await Promise.race([seen.begun, seen.ended]);

  const { object: first } = await call('create', { object: configMap('first', { colour: 'red' }), options: { fieldManager: 'node' } });
  const { object: got } = await call('get', { reference: reference('first'), encoding: Encoding.JSON });
  assert.deepStrictEqual(decoded(got), decoded(first));
  assert.strictEqual(decoded(got).metadata.uid, first.uid);

  const { results } = await call('transact', {
    encoding: Encoding.JSON,
    operations: [
      { operation: { oneofKind: 'check', check: { reference: reference('freeze') } } }, // must not exist
      { operation: { oneofKind: 'create', create: { object: configMap('second', { colour: 'green' }) } } },
      { operation: { oneofKind: 'patch', patch: { reference: reference('first'), type: PatchType.MERGE, patch: Buffer.from('{"data":{"colour":"blue"}}') } } },
    ],
  });
  assert.strictEqual(results.length, 3);
  assert.strictEqual(results[0].object, undefined);
  assert.strictEqual(results[1].created, true);
  assert.strictEqual(decoded(results[2].object).data.colour, 'blue');
  const listed = await list();

  const errors = {
    // The first operation is well, the second is not: nothing happens.
    transaction: await refused('transact', {
      operations: [
        { operation: { oneofKind: 'create', create: { object: configMap('never', {}) } } },
        { operation: { oneofKind: 'check', check: { reference: reference('first'), resourceVersion: first.resourceVersion } } },
      ],
    }),
    conflict: await refused('update', {
      object: json({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'first', namespace, resourceVersion: first.resourceVersion } }),
    }),
    elsewhere: await refused('create', { object: { ...configMap('never', {}), namespace: 'elsewhere' } }),
    invalid: await refused('create', { object: configMap('Not_A_Name', {}) }),
    missing: await refused('get', { reference: reference('never') }),
  };
  const deleted = await call('delete', { reference: reference('second') });
  assert.strictEqual(deleted.gone, true);
  console.log(JSON.stringify({ events: await seen.ended, listed, errors, revision: results[2].object.resourceVersion }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1); // whatever is still open
}).finally(() => client.close());
