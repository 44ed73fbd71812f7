// An OpenID Connect provider for the tests, on a free port of loopback; its first line says where.
//
// Anybody signs in with any password. A line on standard input changes it, and a line says when it is done: `rotate`
// signs with a new key from now on, and `withdraw` publishes that one only. It ends when standard input does.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const GROUPS = { 'alice@example.com': ['staff', 'admins'], 'bob@example.com': ['staff'] };
const NATIVE = {
  application_type: 'native',
  grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
  redirect_uris: ['http://127.0.0.1/callback'],
  response_types: ['code'],
};

// Standard output is for answers.
console.info = console.warn;

const server = createServer((request, response) => handle(request, response));
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

let keys = [newKey()];
let handle = handler();
console.log(issuer);

for await (const line of createInterface({ input: process.stdin })) {
  keys = line === 'rotate' ? [newKey(), ...keys] : keys.slice(0, 1);
  handle = handler();
  console.log(keys.map(({ kid }) => kid).join(' '));
}
process.exit();

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), alg: 'RS256', kid: randomUUID(), use: 'sig' };
}

// The provider keeps sessions and codes for the whole process, so they outlive a change of keys.
function handler() {
  return new Provider(issuer, {
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'], groups: ['groups'] },
    clients: [
      { ...NATIVE, client_id: 'guardhouse', token_endpoint_auth_method: 'none' },
      { ...NATIVE, client_id: 'confidential', client_secret: 'a secret: of %41 kinds' },
    ],
    // Devices read the ID token and ask for nothing else.
    conformIdTokenClaims: false,
    cookies: { keys: ['a key of the tests'] },
    features: { deviceFlow: { enabled: true } },
    findAccount: (_, email) => ({
      accountId: email,
      claims: () => ({
        sub: email, email, email_verified: true, name: email.split('@')[0], groups: GROUPS[email] ?? [],
      }),
    }),
    jwks: { keys },
    scopes: ['openid', 'email', 'profile', 'groups'],
    ttl: { DeviceCode: 60, Grant: 3600, IdToken: 600, Interaction: 300, Session: 3600 },
  }).callback();
}
