// Drives the dashboard in a real browser. Started by the test with the address, a token and a directory for pictures; the
// two talk by lines: this prints `do WORD`, and goes on when it reads a line.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { join } from 'node:path';

const [modules, base, token, pictures] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, 'x.js'))('playwright-core');
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the test to do something; gives its answer. */
async function ask(word) {
  console.log(`do ${word}`);
  return (await lines.next()).value;
}

const problems = [];
const check = (isTrue, what) => {
  if (!isTrue) problems.push(what);
  console.log(`${isTrue ? 'ok' : 'WRONG'}: ${what}`);
};

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(20_000);
page.on('request', (request) => {
  if (new URL(request.url()).origin !== base) problems.push(`a request to ${request.url()}`);
});
page.on('pageerror', (error) => problems.push(`an error: ${error.stack}`));
page.on('console', (message) => {
  // The browser itself notes answers of 4xx, which are expected here.
  const isAnswer = message.text().startsWith('Failed to load resource');
  if (['error', 'warning'].includes(message.type()) && !isAnswer) problems.push(`on the console: ${message.text()}`);
});
await page.addInitScript(() => {
  document.addEventListener('securitypolicyviolation', (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
});
const press = (...keys) => keys.reduce((before, key) => before.then(() => page.keyboard.press(key)), Promise.resolve());
const heading = (text) => page.waitForSelector(`h1:text-is("${text}")`);
const text = (selector) => page.textContent(selector);

/** Waits until `look` gives something true; a failure is one of the test. */
async function until(what, look) {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const seen = await look().catch(() => null);
    if (seen || Date.now() > deadline) {
      check(Boolean(seen), what);
      return seen;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function logIn() {
  // A wrong token, then the right one: by keyboard only.
  await page.goto(`${base}/`);
  await page.waitForSelector('[name=user]:focus');
  await press('Shift+Tab', 'ArrowRight');
  await page.waitForSelector('[name=token]');
  await press('Tab');
  await page.keyboard.type('not-a-token');
  await press('Enter');
  await page.waitForSelector('.form-error');
  check((await text('.form-error')).includes('does not know'), 'a wrong token is refused in place');
  await page.fill('[name=token]', '');
  await page.focus('[name=token]');
  await page.keyboard.type(token);
  await press('Enter');
  await heading('Overview');
  const cookies = await context.cookies();
  check(cookies.length === 1 && cookies[0].httpOnly && cookies[0].sameSite === 'Strict', 'one cookie, HttpOnly and SameSite=Strict');
  check(await page.evaluate(() => Object.keys(localStorage).length === 0 && document.cookie === ''), 'no script can see a credential');
}

async function overview() {
  const tile = (name) => page.evaluate((wanted) => [...document.querySelectorAll('.tile')].find((each) => each.firstChild.textContent === wanted)?.textContent, name);
  for (const name of ['New', 'Down']) {
    const first = await until(`${name} is shown`, () => tile(name));
    await until(`${name} moves under load`, async () => (await tile(name)) !== first);
  }
  await until('throughput is drawn', () => page.evaluate(() => {
    const canvas = document.querySelector('.graph canvas');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size > 8;
  }));
  await until('a stalled reader is found to be who is waited for', async () => (await text('section[aria-label="Who is waited for"]')).includes('receive window is closed'));
  await ask('backend-down');
  await until('a failing backend is named, with its time', async () => /is (down|ejected)/.test(await text('[aria-label="What is wrong now"]')));
  await page.screenshot({ path: join(pictures, 'overview.png') });
}

/** From the list to the end of a session without a mouse. */
async function kill() {
  await press('2');
  await page.waitForSelector('[name=source]');
  await press('/');
  await page.waitForSelector('[name=source]:focus');
  await page.keyboard.type(await ask('victim'));
  await press('Enter');
  await until('the filter leaves one session', () => page.evaluate(() => document.querySelectorAll('tbody tr').length === 1));
  await until('and the list tells whom it waits for', () => page.evaluate(() => document.querySelector('tbody td[data-label="Waits for"]').textContent === 'client'));
  await page.focus('tbody tr');
  await press('Enter');
  await page.waitForSelector('dialog.drawer[open]');
  await until('its verdict is told', async () => (await text('dialog.drawer .verdict')).includes('The client is slow'));
  check((await text('dialog.drawer .path')).includes('Round trip'), 'both sides are shown');
  await page.screenshot({ path: join(pictures, 'session.png') });
  await press('Escape');
  await page.waitForSelector('dialog.drawer', { state: 'detached' });
  check(await page.evaluate(() => document.activeElement.tagName === 'TR'), 'the focus is back on the row');
  await press('Enter');
  const button = page.locator('dialog.drawer button.danger');
  await button.waitFor();
  await button.focus();
  await press('Enter');
  await page.waitForSelector('dialog.ask[open]');
  await press('Enter');
  await page.waitForSelector('.notice');
  check((await text('.notice')).startsWith('Killed the session'), 'the session was killed');
  check((await ask('is-victim-cut')) === 'yes', 'and its client knows');
  await press('Escape');
}

async function upstreams() {
  await press('3');
  await heading('Upstreams');
  const row = page.locator('tbody tr').first();
  await row.getByRole('button', { name: /^Drain/ }).click();
  await press('Enter');
  await until('a drained backend says so', async () => (await row.textContent()).includes('drained'));
  await row.getByRole('button', { name: /^Put up/ }).click();
  await until('and is up again', async () => (await row.textContent()).includes('up'));
}

async function access() {
  await press('5');
  await heading('Access rules');
  if (await page.locator('.try').count() === 0) return console.log('no access rules in this arus');
  const decide = async (destination, port) => {
    await page.fill('[name=destination]', destination);
    await page.fill('[name=port]', port);
    await press('Enter');
  };
  await decide('www.example.com', '443');
  await until('a destination of a rule is allowed', async () => (await text('.try-answer')).startsWith('Allowed'));
  await until('and its rule is marked', () => page.evaluate(() => document.querySelector('tr.chosen')?.textContent.includes('to the web')));
  await decide('www.example.com', '22');
  await until('another port is not', async () => (await text('.try-answer')).startsWith('Blocked'));
  // A digit in a field is a digit there.
  await page.evaluate(() => document.activeElement.blur());
}

async function users() {
  await press('9');
  await heading('Users');
  await until('who is logged in has a place', async () => (await text('section[aria-label="Now"]')).includes('Nobody has logged in'));
}

async function reload() {
  await press('8');
  await heading('Configuration');
  const shown = await page.evaluate(() => document.body.textContent);
  check(!shown.includes('sha256:') && !shown.includes('$argon2'), 'no secret is shown');
  await ask('break-config');
  await page.getByRole('button', { name: 'Reload the file' }).click();
  await page.waitForSelector('.refused li');
  const errors = await page.locator('.refused li').allTextContents();
  check(errors.length === 2 && errors.every((error) => /proxy\.toml:\d+:\d+/.test(error)), `every error is shown in place: ${errors.join(' | ')}`);
  await ask('mend-config');
  await page.getByRole('button', { name: 'Reload the file' }).click();
  await until('the mended file is taken', async () => (await text('.verdict.good')).includes('Generation'));
}

async function keys() {
  await press('?');
  await page.waitForSelector('dialog.keys[open]');
  await press('Escape');
  await page.waitForSelector('dialog.keys', { state: 'detached' });
  await press('t', 't');
  check(await page.evaluate(() => document.documentElement.dataset.theme === 'dark'), 'the theme is switched');
  await press('t', '1');
  await heading('Overview');
  await page.evaluate(() => document.activeElement.blur());
  await press('Tab');
  check((await page.evaluate(() => document.activeElement.textContent)) === 'Skip to content', 'the first stop of Tab is the way to the content');
  await press('Enter');
  check(await page.evaluate(() => document.activeElement.id === 'main'), 'and leads there');
}

async function phone() {
  await page.setViewportSize({ width: 390, height: 844 });
  for (const name of ['overview', 'sessions', 'upstreams', 'shards', 'acl', 'plugins', 'events', 'configuration', 'users']) {
    await page.goto(`${base}/#/${name}`);
    await page.waitForFunction((wanted) => document.querySelector(`nav a[href="#/${wanted}"][aria-current]`) && !document.querySelector('.empty')?.textContent.startsWith('Asking'), name);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    check(over <= 0, `${name} needs no scrolling to the side (${over})`);
    const nameless = await page.evaluate(() => [...document.querySelectorAll('button, a, input, select')].filter((each) => !(each.textContent.trim() || each.getAttribute('aria-label') || each.labels?.length)).map((each) => each.outerHTML));
    check(nameless.length === 0, `everything in ${name} has a name ${nameless.join(' ')}`);
  }
  await page.setViewportSize({ width: 1440, height: 900 });
}

async function silence() {
  await ask('stop');
  await until('an arus that does not answer is told', async () => (await text('.banner.bad')).includes('has not answered for'));
  await ask('go-on');
  await until('and that it does again', async () => (await page.locator('.banner.bad').count()) === 0);
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.waitForSelector('.login-card');
  check((await page.evaluate(() => fetch('/api/v1/status').then((answer) => answer.status))) === 401, 'after logging out nothing is told');
}

try {
  for (const part of [logIn, overview, kill, upstreams, access, users, reload, keys, phone, silence]) {
    const began = Date.now();
    await part();
    console.log(`${part.name} took ${Date.now() - began} ms`);
  }
} catch (error) {
  problems.push(`it got stuck: ${error.stack}`);
  await page.screenshot({ path: join(pictures, 'stuck.png') }).catch(() => null);
}
await browser.close();
console.log(problems.length ? `problems:\n${problems.join('\n')}` : 'all is well');
process.exit(problems.length ? 1 : 0);
