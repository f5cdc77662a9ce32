// The page in a real browser: what it shows, by keyboard, for a screen reader, in trouble, and with hostile data.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, beforeEach, describe, it as test } from 'node:test';
import { PROXY, start } from './server.mjs';

// Why there is no browser to test in: run.sh says so where that is allowed.
const skip = process.env.PAGE_SKIP;
const it = skip ? (name) => test(name, { skip }) : test;
const { default: puppeteer } = skip ? {} : await import('puppeteer-core');
const AXE = skip || createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const shots = process.env.RAILBIND_SCREENSHOTS;
let browser, page, server, errors;

before(async () => {
  if (skip) return;
  server = await start();
  browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox'] });
  if (shots) mkdirSync(shots, { recursive: true });
});
after(async () => { await browser?.close(); server?.stop(); });
beforeEach(async () => {
  if (skip) return;
  await page?.close();
  page = await browser.newPage();
  errors = [];
  server.trouble.data = server.trouble.fabrics = null;
  server.trouble.requests = [];
  page.on('pageerror', (error) => errors.push(`error: ${error.message}`));
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
  page.on('dialog', (dialog) => { errors.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  await page.setViewport({ width: 1200, height: 800 });
});

async function open(path = `${PROXY}/ui/`) {
  await page.goto(server.origin + path, { waitUntil: 'networkidle0' });
}
const text = (selector) => page.$eval(selector, (found) => found.innerText);
const shot = async (name, selector) => { if (shots) await (await page.$(selector)).screenshot({ path: `${shots}/${name}.png` }); };
/** Serious findings of axe-core; the page's own policy keeps it out, so it is put in by the debugger. */
async function axe() {
  const { readFileSync } = await import('node:fs');
  await page.evaluate(readFileSync(AXE, 'utf8'));
  const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  return violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(' ')).slice(0, 3).join('; ')}`);
}

describe('what it shows', () => {
  it('the map by domain, best fabric first', async () => {
    await open();
    const domains = await page.$$eval('#map h3', (found) => found.map((one) => one.textContent));
    assert.deepEqual(domains, ['ib-fe80000000000000 (2)', 'roce-8-1a2327d48ab7129c (4)', 'efa-us-east-1a (1)', 'tcp, no domain (1)', 'no agent (1)']);
    assert.match(await text('#map'), /roce-3\s+roce, 8 ports, 400 Gb\/s, GPUDirect dmabuf\s+self-test failed/);
    assert.match(await text('#status'), /9 nodes, 7 workers/);
    assert.deepEqual(errors, []);
    await shot('page-map', '#map');
  });
  it('workers with their decisions, the odd ones first', async () => {
    await open();
    const first = await page.$$eval('#workers tbody tr', (rows) => rows.slice(0, 2).map((row) => row.innerText));
    assert.match(first[0], /demo\/early-bird\s+without Railbind/);
    assert.match(first[1], /demo\/decode-1\s+not its node's values/);
    await page.type('#worker-filter', 'prefill');
    assert.match(await text('#workers caption'), /^1 workers/);
    await page.click('#workers td:last-child summary');
    assert.match(await text('#workers tbody'), /one for each GPU/);
  });
  it('the matrix, with the odd ones named', async () => {
    await open();
    await page.select('#domain', 'roce-8-1a2327d48ab7129c');
    await page.waitForFunction(() => document.querySelector('#matrix table')?.innerText.includes('46.8'));
    const odd = await text('#matrix ul');
    assert.match(odd, /roce-1 to roce-3: failed \(FabricFallback\), 1\.1 GB\/s/);
    assert.doesNotMatch(odd, /roce-1 to roce-2/);
    assert.match(await text('#matrix-body'), /no NodeFabric roce-4 \(404\)/);
    await shot('page-matrix', '#matrix');
  });
  it("a node's details, from its NodeFabric", async () => {
    await open();
    await page.$$eval('#map .card', (cards) => cards.find((card) => card.innerText.startsWith('roce-3')).click());
    await page.waitForSelector('#detail table');
    assert.match(await text('#detail'), /PcieNarrow.*reseat the card/s);
    await shot('page-node', '#detail');
  });
});

describe('for everyone', () => {
  for (const scheme of ['light', 'dark']) {
    it(`axe-core finds nothing (${scheme})`, async () => {
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }, { name: 'prefers-reduced-motion', value: 'reduce' }]);
      await open();
      await page.$$eval('#map .card', (cards) => cards[0].click());
      await page.waitForSelector('#detail table');
      assert.deepEqual(await axe(), []);
      if (scheme === 'dark') await page.type('#worker-filter', 'demo');
      if (scheme === 'dark') await shot('page-workers-dark', '#workers');
    });
  }
  it('goes by keyboard alone, and gives the focus back', async () => {
    await open();
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.querySelector('strong').textContent), 'ib-1');
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, 'solid', 'the focus cannot be seen');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#detail table');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'detail');
    await page.keyboard.press('Escape');
    assert.equal(await page.$eval('#detail', (detail) => detail.hidden), true);
    assert.equal(await page.evaluate(() => document.activeElement.querySelector('strong').textContent), 'ib-1');
  });
  it('every table has headers and a caption, and no state is a colour alone', async () => {
    await open();
    const bare = await page.$$eval('table', (tables) => tables.filter((one) => !one.caption?.textContent || !one.querySelector('th[scope=col]') || !one.querySelector('th[scope=row]')).length);
    assert.equal(bare, 0);
    const mute = await page.$$eval('.tag, td.good, td.warn, td.bad, .card', (found) => found.filter((one) => !one.textContent.trim()).length);
    assert.equal(mute, 0);
  });
  it('fits a narrow screen', async () => {
    await page.setViewport({ width: 360, height: 700 });
    await open();
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 361), 'the page scrolls sideways');
  });
});

describe('in trouble', () => {
  it('an answer that fails leaves the old data and says so', async () => {
    await open();
    server.trouble.data = 503;
    await page.click('#refresh');
    await page.waitForFunction(() => document.querySelector('#status').textContent.includes('503'));
    assert.match(await text('#status'), /what is shown is old/);
    assert.ok((await page.$$('#nodes tbody tr')).length === 9);
  });
  it('without the right to read NodeFabrics it says so and shows the rest', async () => {
    server.trouble.fabrics = 403;
    await open();
    assert.match(await text('#matrix-body'), /You may not read NodeFabrics/);
    assert.match(await text('#nodes-body'), /9 nodes/);
  });
  it('beside the API server it says how to open it, and asks nobody', async () => {
    await open('/ui/');
    assert.match(await text('#matrix-body'), /open this page with kubectl railbind ui/);
    assert.ok(server.trouble.requests.every((one) => one.startsWith('GET /ui/') || one === 'GET /favicon.ico'), server.trouble.requests.join('\n'));
  });
});

describe('hostile pods and nodes', () => {
  it('are text', async () => {
    await open();
    await page.$$eval('#workers details', (found) => found.forEach((one) => { one.open = true; }));
    await page.$$eval('#map .card', (cards) => cards.find((card) => card.innerText.startsWith('efa-1')).click());
    await page.waitForSelector('#detail table');
    await page.select('#domain', 'efa-us-east-1a');
    await page.waitForFunction(() => document.querySelector('#matrix caption')?.textContent.includes('efa-us-east-1a'));
    assert.match(await text('#matrix'), /<img src=x onerror="window\.pwned=1">/);
    assert.equal(await text('#matrix td'), 'failed');
    assert.match(await text('#workers'), /<img src=x onerror="window\.pwned=1">/);
    assert.match(await text('#detail'), /<img src=x onerror="window\.pwned=1">/);
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    assert.equal((await page.$$('img, svg, iframe, script:not([src="page.js"]), a[href^="javascript"]')).length, 0);
    assert.deepEqual(errors.filter((error) => !error.includes('404')), []);
  });
  it('and markup that got in all the same would not run: the policy holds', async () => {
    await open();
    await page.evaluate(() => {
      document.body.insertAdjacentHTML('beforeend', '<img src="data:image/png;base64,x" onerror="window.pwned=1"><iframe srcdoc="<script>parent.pwned=1</script>"></iframe>');
      const script = document.createElement('script');
      script.textContent = 'window.pwned = 1';
      document.body.append(script);
    });
    await new Promise((resolve) => { setTimeout(resolve, 300); });
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    assert.ok(errors.some((error) => error.includes('Content Security Policy')), errors.join('\n'));
  });
  it('and nothing is asked of anybody else, nor changed', async () => {
    const asked = [];
    page.on('request', (request) => asked.push(request));
    await open();
    await page.click('#refresh');
    assert.ok(asked.length > 3);
    assert.ok(asked.every((request) => request.method() === 'GET' && request.url().startsWith(server.origin)));
    assert.deepEqual(await page.cookies(), []);
  });
});
