// node cards.js PATH - opens a page of the real Home Assistant and prints, as JSON, which cards it shows and what they complain of.
// Needs what `screenshot.sh setup` installs under HA_ROOT; logs in with the token file, asks nothing but loopback.
const root = process.env.HA_ROOT || (process.env.TMPDIR || '/tmp') + '/real-parts';
const base = process.env.HA_URL || 'http://127.0.0.1:18123';
const { chromium } = require(root + '/shot/node_modules/playwright-core');
const token = require('fs').readFileSync(process.env.HA_TOKEN_FILE || root + '/run/token', 'utf8').trim();

(async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'] });
  const context = await browser.newContext({ viewport: { width: 1280, height: 1400 }, serviceWorkers: 'block' });
  const tokens = { hassUrl: base, clientId: base + '/', expires: Date.now() + 1e11, refresh_token: '', access_token: token, token_type: 'Bearer', expires_in: 1e8 };
  await context.addInitScript(value => localStorage.setItem('hassTokens', value), JSON.stringify(tokens));
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', error => errors.push(String(error)));
  await page.goto(base + process.argv[2], { waitUntil: 'domcontentloaded' });
  await page.locator('hui-heading-card').last().waitFor();
  await page.locator('hui-history-graph-card canvas').first().waitFor();
  // the text is in the shadow roots below each card
  const deepText = node => {
    if (node.nodeType === Node.TEXT_NODE) return node.data + ' ';
    if (['STYLE', 'SCRIPT'].includes(node.nodeName)) return '';
    const children = node.nodeName === 'SLOT' && node.assignedNodes().length ? node.assignedNodes() : [...(node.shadowRoot || node).childNodes];
    return children.map(deepText).join('');
  };
  const texts = async selector => {
    const found = [];
    for (const card of await page.locator(selector).all()) {
      const text = await card.evaluate((node, program) => eval(program)(node), `const deepText = ${deepText}; deepText`);
      found.push(text.replace(/\s+/g, ' ').trim());
    }
    return found;
  };
  console.log(JSON.stringify({
    errors,
    complaints: await texts('hui-error-card, hui-warning, hui-warning-element, hui-error-badge, hui-entity-not-found'),
    tiles: await texts('hui-tile-card:visible'),
    gauges: await page.locator('hui-gauge-card:visible').count(),
    graphs: await page.locator('hui-history-graph-card:visible, hui-statistics-graph-card:visible').count(),
    markdown: await texts('hui-markdown-card:visible'),
  }));
  await browser.close();
})().catch(error => { console.error(error.message); process.exit(1); });
