// What a cluster says is only ever shown as text: no markup is made from it.
'use strict';

const MAX_ROWS = 500;
const MAX_MATRIX = 32;
const $ = (id) => document.getElementById(id);
let data = { nodes: null, workers: null };
let drawn = '';
let opener = null;
const fabrics = new Map();

/** An element with classes, attributes and children; strings become text. */
function el(tag, options, ...children) {
  const made = document.createElement(tag);
  const { classes = '', on = {}, ...attributes } = options || {};
  if (classes) made.className = classes;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

const show = (id, ...children) => $(id).replaceChildren(...children);
const note = (text) => el('p', { classes: 'note' }, text);
const list = (values) => (Array.isArray(values) ? values : []);
const pairs = (object) => Object.entries(object && typeof object === 'object' ? object : {});
const finite = (value) => (typeof value === 'number' && Number.isFinite(value) ? value : null);
const label = (node, key) => (node.labels || {})[key];

/** A table with a caption and headers; the first cell of each row is its header. */
function table(caption, heads, rows, classes) {
  const head = el('tr', {}, ...heads.map((text) => el('th', { scope: 'col' }, text)));
  const body = rows.map((cells) =>
    el('tr', {}, ...cells.map((cell, index) => {
      if (cell instanceof HTMLTableCellElement) return cell;
      return index === 0 ? el('th', { scope: 'row' }, cell) : el('td', {}, cell === undefined || cell === null || cell === '' ? '–' : cell);
    })));
  return el('table', { classes: classes || '' }, el('caption', {}, caption), el('thead', {}, head), el('tbody', {}, ...body));
}

/** How a node is doing: a class for the colour, and the word that says the same. */
function standing(node) {
  const test = label(node, 'selftest');
  if (test === 'failed') return ['bad', 'self-test failed'];
  if (test === 'slow') return ['warn', 'self-test slow'];
  if (!label(node, 'fabric')) return ['', 'no agent'];
  if (label(node, 'soft') === 'true') return ['warn', 'software RDMA'];
  if (label(node, 'fabric') === 'tcp') return ['warn', 'TCP only'];
  return test === 'passed' ? ['good', 'self-test passed'] : ['', 'untested'];
}

const domainOf = (node) => label(node, 'fabric-domain') || (label(node, 'fabric') ? label(node, 'fabric') + ', no domain' : 'no agent');

function domains() {
  const found = new Map();
  for (const node of list(data.nodes)) {
    if (!found.has(domainOf(node))) found.set(domainOf(node), []);
    found.get(domainOf(node)).push(node);
  }
  const rank = ([, nodes]) => ['infiniband', 'roce', 'efa', 'tcp'].indexOf(label(nodes[0], 'fabric'));
  return [...found].sort((one, other) => (rank(one) + 9) % 9 - (rank(other) + 9) % 9 || one[0].localeCompare(other[0]));
}

function nodeButton(name, classes) {
  return el('button', { type: 'button', classes: classes || 'link', on: { click: () => openNode(name) } }, name);
}

function drawMap() {
  if (!data.nodes) return show('map-body', note('The nodes have not been listed yet.'));
  if (data.nodes.length === 0) return show('map-body', note('There are no nodes.'));
  const parts = domains().flatMap(([domain, nodes]) => {
    const cards = nodes.slice(0, MAX_ROWS).map((node) => {
      const [colour, word] = standing(node);
      const ports = label(node, 'rdma-ports');
      const rate = label(node, 'rate-gbps');
      const facts = [label(node, 'fabric'), ports ? `${ports} ports` : '', rate ? `${rate} Gb/s` : '', label(node, 'gpudirect') ? `GPUDirect ${label(node, 'gpudirect')}` : ''];
      return el('li', {}, el('button', { type: 'button', classes: `card ${colour}`, on: { click: () => openNode(node.name) } },
        el('strong', {}, node.name), el('span', {}, facts.filter(Boolean).join(', ')), el('span', {}, word + (node.unschedulable ? ', cordoned' : ''))));
    });
    const more = nodes.length > MAX_ROWS ? note(`${nodes.length - MAX_ROWS} more: use the filter of the table.`) : null;
    return [el('h3', {}, `${domain} (${nodes.length})`), el('ul', { classes: 'cards' }, ...cards), more].filter(Boolean);
  });
  if (data.nodesLeftOff) parts.push(note(`${data.nodesLeftOff} more nodes are not shown here.`));
  show('map-body', ...parts);
}

function cut(rows, what) {
  return rows.length > MAX_ROWS ? `${MAX_ROWS} of ${rows.length} ${what}; the filter finds the others` : `${rows.length} ${what}`;
}

function drawNodes() {
  if (!data.nodes) return show('nodes-body', note('The nodes have not been listed yet.'));
  const wanted = $('node-filter').value.trim().toLowerCase();
  const text = (node) => [node.name, ...pairs(node.labels).flat(), ...pairs(node.nics).flat()].join(' ').toLowerCase();
  const found = data.nodes.filter((node) => text(node).includes(wanted));
  const rows = found.slice(0, MAX_ROWS).map((node) => {
    const [colour, word] = standing(node);
    return [
      nodeButton(node.name), label(node, 'fabric'), label(node, 'profile'), label(node, 'gpudirect'), label(node, 'rdma-ports'), label(node, 'rate-gbps'),
      label(node, 'gid-index'), label(node, 'memlock'), el('span', { classes: `tag ${colour}` }, word), node.gpus,
      pairs(node.nics).map(([name, count]) => `${name}: ${count}`).join(', '), domainOf(node),
    ];
  });
  show('nodes-body', table(cut(found, 'nodes'),
    ['Node', 'Fabric', 'Profile', 'GPUDirect', 'Ports', 'Gb/s', 'GID', 'Memlock', 'State', 'GPUs', 'NIC resource', 'Domain'], rows));
}

const STATES = { unpatched: ['bad', 'without Railbind'], 'without-values': ['warn', "not its node's values"], bound: ['good', 'bound'], waiting: ['', 'waiting'] };

function drawWorkers() {
  if (!data.workers) return show('workers-body', note('The workers have not been listed yet.'));
  const wanted = $('worker-filter').value.trim().toLowerCase();
  const text = (worker) => [worker.namespace, worker.pod, worker.node, worker.profile, worker.state, worker.says].join(' ').toLowerCase();
  const found = data.workers.filter((worker) => text(worker).includes(wanted));
  const rows = found.slice(0, MAX_ROWS).map((worker) => {
    const [colour, word] = STATES[worker.state] || ['', 'unknown'];
    const values = pairs(worker.values).map(([name, value]) => el('li', {}, el('code', {}, `${name}=${value}`)));
    const reasons = [worker.says, ...list(worker.reasons)].map((reason) => el('li', {}, reason));
    return [
      `${worker.namespace}/${worker.pod}`, el('span', { classes: `tag ${colour}` }, word), worker.profile, worker.node ? nodeButton(worker.node) : '',
      values.length ? el('details', {}, el('summary', {}, `${values.length} of its node`), el('ul', {}, ...values)) : '',
      el('details', {}, el('summary', {}, `Why (${reasons.length})`), el('ul', {}, ...reasons)),
    ];
  });
  const left = data.workersLeftOff ? `; ${data.workersLeftOff} more are not shown here` : '';
  show('workers-body', table(cut(found, 'workers of namespaces that are opted in') + left, ['Worker', 'State', 'Profile', 'Node', 'Values', 'Decision'], rows));
}

/** A NodeFabric, read from the API server with the viewer's own rights; or the sentence that says why not. */
async function fabric(name) {
  const place = location.pathname.match(/^(.*)\/api\/v1\/namespaces\/[^/]+\/services\/[^/]+\/proxy\/ui\/$/);
  if (!place) return { why: 'Ports, problems and self-tests are read from the API server: open this page with kubectl railbind ui.' };
  if (!fabrics.has(name)) {
    const path = `${place[1]}/apis/railbind.dev/v1alpha1/nodefabrics/${encodeURIComponent(name)}`;
    const asked = fetch(path, { headers: { Accept: 'application/json' } }).then(async (answer) => {
      if (answer.ok) return { status: (await answer.json()).status || {} };
      return { why: answer.status === 403 ? 'You may not read NodeFabrics.' : `The API server has no NodeFabric ${name} (${answer.status}).` };
    }).catch((error) => ({ why: `The API server did not answer: ${error.message}` }));
    fabrics.set(name, asked);
  }
  return fabrics.get(name);
}

async function openNode(name) {
  opener = document.activeElement;
  const node = list(data.nodes).find((found) => found.name === name);
  const facts = node ? [...pairs(node.labels), ...pairs(node.values), ...pairs(node.nics)] : [];
  const body = [el('dl', {}, ...facts.flatMap(([key, value]) => [el('dt', {}, key), el('dd', {}, value)]))];
  $('detail-title').textContent = `Node ${name}`;
  show('detail-body', ...body, note('Reading its NodeFabric…'));
  $('detail').hidden = false;
  $('detail').focus();
  const { status, why } = await fabric(name);
  if ($('detail-title').textContent !== `Node ${name}`) return;
  if (why) return show('detail-body', ...body, note(why));
  const ready = status.ready || {};
  body.unshift(el('p', {}, el('strong', {}, `${ready.reason || 'Unknown'}: `), ready.message || 'nothing said'));
  const problems = list(status.problems).map((one) => [one.code, one.subject, one.message, one.remedy]);
  if (problems.length) body.push(table('Problems', ['Problem', 'Where', 'What', 'What to do'], problems));
  const ports = list(status.ports).map((port) => [`${port.device}:${port.port}`, port.role, finite(port.rateGbps), port.gid, port.reason]);
  body.push(table('Ports', ['Port', 'Role', 'Gb/s', 'GID', 'Why'], ports));
  const partners = list((status.selftest || {}).partners).map((one) => [one.name, one.verdict, finite(one.gbytesPerS), one.port, one.code]);
  if (partners.length) body.push(table('Self-tests, the latest first', ['Partner', 'Verdict', 'GB/s', 'Port', 'Code'], partners));
  body.push(el('details', {}, el('summary', {}, 'Why it was decided so'), el('ul', {}, ...list(status.reasons).map((reason) => el('li', {}, reason)))));
  show('detail-body', ...body);
}

function drawDomains() {
  const before = $('domain').value;
  const names = domains().filter(([, nodes]) => label(nodes[0], 'fabric-domain')).map(([domain]) => domain);
  show('domain', ...names.map((name) => el('option', { value: name }, name)));
  if (names.includes(before)) $('domain').value = before;
}

const COLOURS = { passed: 'good', slow: 'warn', failed: 'bad' };

async function drawMatrix() {
  const domain = $('domain').value;
  const all = (domains().find(([name]) => name === domain) || ['', []])[1].map((node) => node.name);
  if (all.length === 0) return show('matrix-body', note('No node is in a fabric domain.'));
  const names = all.slice(0, MAX_MATRIX);
  const found = await Promise.all(names.map(fabric));
  if ($('domain').value !== domain) return;
  const refused = found.find((one) => one.why);
  if (found.every((one) => one.why)) return show('matrix-body', note(refused.why));
  const odd = [];
  const rows = names.map((row, index) => {
    const test = (found[index].status || {}).selftest || {};
    const cells = names.map((column) => {
      const partner = list(test.partners).find((one) => one.name === column);
      if (!partner) return el('td', {}, '·');
      const rate = finite(partner.gbytesPerS);
      const figure = rate === null ? '' : rate.toFixed(1);
      if (partner.verdict !== 'passed') odd.push(`${row} to ${column}: ${partner.verdict} (${partner.code})${figure ? `, ${figure} GB/s` : ''}`);
      const word = partner.verdict === 'passed' ? figure || 'passed' : `${figure} ${partner.verdict}`.trim();
      return el('td', { classes: COLOURS[partner.verdict] || '' }, word);
    });
    return [el('th', { scope: 'row' }, nodeButton(row)), ...cells];
  });
  const left = all.length > names.length ? `; ${all.length - names.length} more nodes are in this domain` : '';
  const parts = [table(`${names.length} ${names.length === 1 ? 'node' : 'nodes'} of ${domain}${left}. A dot: not measured with each other.`, ['Node', ...names], rows, 'matrix')];
  parts.push(el('h3', {}, 'What is odd'), odd.length ? el('ul', {}, ...odd.map((text) => el('li', {}, text))) : note('Nothing.'));
  if (refused) parts.push(note(refused.why));
  show('matrix-body', ...parts);
}

function draw() {
  drawMap();
  drawNodes();
  drawWorkers();
  drawDomains();
  drawMatrix();
  $('version').textContent = data.version ? `railbind-webhook ${data.version}` : '';
}

async function refresh() {
  try {
    const answer = await fetch('data.json', { headers: { Accept: 'application/json' } });
    if (!answer.ok) throw new Error(`the webhook answered ${answer.status}`);
    const text = await answer.text();
    fabrics.clear();
    // Drawing anew takes the focus from whoever is in a table: only where there is news.
    if (text !== drawn) {
      data = JSON.parse(text);
      drawn = text;
      draw();
    } else {
      drawMatrix();
    }
    $('status').textContent = `As of ${new Date().toLocaleTimeString()}: ${list(data.nodes).length} nodes, ${list(data.workers).length} workers.`;
  } catch (error) {
    $('status').textContent = `Could not look again (${error.message}); what is shown is old.`;
  }
}

$('refresh').addEventListener('click', refresh);
$('node-filter').addEventListener('input', drawNodes);
$('worker-filter').addEventListener('input', drawWorkers);
$('domain').addEventListener('change', drawMatrix);
$('close').addEventListener('click', () => {
  $('detail').hidden = true;
  (opener && opener.isConnected && opener !== document.body ? opener : $('nodes')).focus();
});
document.addEventListener('keydown', (event) => { if (event.key === 'Escape' && !$('detail').hidden) $('close').click(); });
setInterval(() => { if ($('auto').checked && !document.hidden) refresh(); }, 10000);
refresh();
