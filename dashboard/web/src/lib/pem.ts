// Private keys as kubeconfigs have them, in the form that WebCrypto takes (PKCS #8, RFC 5208).

/** The DER bytes of the first PEM block whose label ends so, with its label. */
export function pemBlock(text: string, suffix: string): { label: string; der: Uint8Array<ArrayBuffer> } | undefined {
  for (const match of text.matchAll(/-----BEGIN ([A-Z0-9 ]+)-----([\s\S]*?)-----END \1-----/g)) {
    const [, label, body] = match;
    if (!label?.endsWith(suffix) || !body) continue;
    if (/ENCRYPTED/.test(label + body)) throw new Error('the private key is protected by a passphrase, which the dashboard cannot open');
    return { label, der: fromBase64(body) };
  }
  return undefined;
}

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text.replace(/\s+/g, ''));
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

export function toBase64(bytes: Uint8Array): string {
  let binary = '';
  for (const b of bytes) binary += String.fromCharCode(b);
  return btoa(binary);
}

/** A DER value: its tag, its length, and its content. */
export function der(tag: number, ...content: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const length = content.reduce((sum, part) => sum + part.length, 0);
  const head = length < 0x80 ? [tag, length] : length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
  const out = new Uint8Array(head.length + length);
  out.set(head);
  let at = head.length;
  for (const part of content) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const oid = {
  rsa: '06092a864886f70d010101',
  ec: '06072a8648ce3d0201',
  p256: '06082a8648ce3d030107',
  p384: '06052b81040022',
  p521: '06052b81040023',
  ed25519: '06032b6570',
};
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(hex.match(/../g) ?? [], (b) => parseInt(b, 16));
const hexOf = (bytes: Uint8Array): string => Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');

export type Algorithm = { name: 'RSASSA-PKCS1-v1_5'; hash: 'SHA-256' } | { name: 'ECDSA'; namedCurve: 'P-256' | 'P-384' | 'P-521' } | { name: 'Ed25519' };

/** A private key in PEM as PKCS #8, with WebCrypto's name of its algorithm. */
export function pkcs8(pem: string): { der: Uint8Array<ArrayBuffer>; algorithm: Algorithm } {
  const block = pemBlock(pem, 'PRIVATE KEY');
  if (!block) throw new Error('there is no private key in PEM form');
  const version = der(0x02, new Uint8Array([0]));
  const hex = hexOf(block.der);
  if (block.label === 'RSA PRIVATE KEY') {
    const algorithm = der(0x30, bytesOf(oid.rsa), new Uint8Array([5, 0]));
    return { der: der(0x30, version, algorithm, der(0x04, block.der)), algorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' } };
  }
  const curve = ([['P-256', oid.p256], ['P-384', oid.p384], ['P-521', oid.p521]] as const).find(([, id]) => hex.includes(id));
  if (block.label === 'EC PRIVATE KEY') {
    if (!curve) throw new Error('the private key is on a curve that browsers do not support');
    const algorithm = der(0x30, bytesOf(oid.ec), bytesOf(curve[1]));
    return { der: der(0x30, version, algorithm, der(0x04, block.der)), algorithm: { name: 'ECDSA', namedCurve: curve[0] } };
  }
  if (hex.slice(0, 80).includes(oid.ed25519)) return { der: block.der, algorithm: { name: 'Ed25519' } };
  if (hex.slice(0, 80).includes(oid.ec) && curve) return { der: block.der, algorithm: { name: 'ECDSA', namedCurve: curve[0] } };
  if (hex.slice(0, 80).includes(oid.rsa)) return { der: block.der, algorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' } };
  throw new Error('the private key is of a type that browsers do not support');
}

/** Signs a text with a private key in PEM. */
export async function sign(pem: string, text: string): Promise<Uint8Array> {
  const key = pkcs8(pem);
  const imported = await crypto.subtle.importKey('pkcs8', key.der, key.algorithm, false, ['sign']);
  const parameters = key.algorithm.name === 'ECDSA' ? { name: 'ECDSA', hash: 'SHA-256' } : key.algorithm.name;
  return new Uint8Array(await crypto.subtle.sign(parameters, imported, new TextEncoder().encode(text)));
}
