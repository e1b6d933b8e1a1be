// Opens a page of the real Home Assistant, for the programs of this folder: `page(path, look)` prints as JSON what `look` finds there.
// Needs what `screenshot.sh setup` installs under HA_ROOT; logs in with the token file, asks nothing but loopback.
const root = process.env.HA_ROOT || (process.env.TMPDIR || '/tmp') + '/real-parts';
const base = process.env.HA_URL || 'http://127.0.0.1:18123';
const { chromium } = require(root + '/shot/node_modules/playwright-core');
const token = require('fs').readFileSync(process.env.HA_TOKEN_FILE || root + '/run/token', 'utf8').trim();

module.exports = async (path, look) => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'] });
  const context = await browser.newContext({ viewport: { width: 1280, height: 1400 }, serviceWorkers: 'block' });
  const tokens = { hassUrl: base, clientId: base + '/', expires: Date.now() + 1e11, refresh_token: '', access_token: token, token_type: 'Bearer', expires_in: 1e8 };
  await context.addInitScript(value => localStorage.setItem('hassTokens', value), JSON.stringify(tokens));
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', error => errors.push(String(error)));
  await page.goto(base + path, { waitUntil: 'domcontentloaded' });
  console.log(JSON.stringify({ ...(await look(page)), errors }));
  await browser.close();
};
