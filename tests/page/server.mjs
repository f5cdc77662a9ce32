// An API server as far as the page needs one: its service proxy with the page's own files and headers behind it, and NodeFabrics.
// A fake, for the browser test; `data.json` is what the webhook really answers for cluster.json (a Rust test compares).
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';

const here = (path) => new URL(path, import.meta.url);
const source = (name) => readFileSync(here(`../../webhook/src/ui/${name}`), 'utf8');
// The policy that the webhook sends, from its source.
const POLICY = source('mod.rs').match(/const POLICY: &str =\s*"([^"]+)"/)[1];
export const PROXY = '/api/v1/namespaces/railbind-system/services/http:railbind-webhook:admin/proxy';
const FILES = {
  '/ui/': ['text/html; charset=utf-8', 'page.html'],
  '/ui/page.css': ['text/css; charset=utf-8', 'page.css'],
  '/ui/page.js': ['text/javascript; charset=utf-8', 'page.js'],
};

/** Starts it on a free port. `trouble` is changed by tests. */
export async function start() {
  const fabrics = JSON.parse(readFileSync(here('fabrics.json'), 'utf8'));
  const trouble = { data: null, fabrics: null, requests: [] };
  const server = createServer((request, response) => {
    trouble.requests.push(`${request.method} ${request.url}`);
    const send = (code, kind, body) => {
      response.writeHead(code, { 'Content-Type': kind, 'Content-Security-Policy': POLICY, 'X-Content-Type-Options': 'nosniff' });
      response.end(body);
    };
    const json = (code, value) => send(code, 'application/json', JSON.stringify(value));
    const path = request.url.startsWith(PROXY) ? request.url.slice(PROXY.length) : request.url;
    const name = path.match(/^\/apis\/railbind\.dev\/v1alpha1\/nodefabrics\/([^/?]+)$/);
    if (request.method !== 'GET') return send(405, 'text/plain', 'no');
    if (FILES[path]) return send(200, FILES[path][0], source(FILES[path][1]));
    if (path === '/ui/data.json') {
      return trouble.data ? send(trouble.data, 'text/plain', 'trouble') : send(200, 'application/json', readFileSync(here('data.json'), 'utf8'));
    }
    if (name && trouble.fabrics) return json(trouble.fabrics, { kind: 'Status', code: trouble.fabrics });
    if (name && fabrics[decodeURIComponent(name[1])]) return json(200, fabrics[decodeURIComponent(name[1])]);
    return json(404, { kind: 'Status', code: 404 });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { origin: `http://127.0.0.1:${server.address().port}`, trouble, stop: () => server.close() };
}
