import { chromium } from '@playwright/test';
const [,, out, width, theme, steps] = process.argv;
const b = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
const c = await b.newContext({ ignoreHTTPSErrors: true, viewport: { width: +width, height: width < 500 ? 844 : 900 }, colorScheme: theme, deviceScaleFactor: 1, hasTouch: width<500 });
const p = await c.newPage();
p.on('console', m => { if (['error','warning'].includes(m.type())) console.log('console', m.type(), m.text()); });
p.on('pageerror', e => console.log('pageerror', e.message));
const base = process.env.BASE ?? 'https://127.0.0.1:7700';
await p.goto(base + '/ui/');
if (steps !== 'signin') {
  await p.setInputFiles('input[type=file]', '/tmp/web/c/kubeconfig');
  await p.waitForSelector('.shell', { timeout: 15000 }).catch(async () => { console.log(await p.textContent('body')); });
  await p.waitForTimeout(1500);
}
let n = 0;
for (const s of (steps || '').split(';').filter(x => x && x !== 'signin')) {
  const [k, ...r] = s.split('='); const v = r.join('=');
  if (k === 'go') { await p.goto(base + v); await p.waitForTimeout(2000); }
  else if (k === 'key') await p.keyboard.press(v);
  else if (k === 'type') await p.keyboard.type(v);
  else if (k === 'click') await p.click(v);
  else if (k === 'wait') await p.waitForTimeout(+v);
  else if (k === 'fill') { const [sel, t] = v.split('|'); await p.fill(sel, t); }
  else if (k === 'shot') await p.screenshot({ path: out.replace('.png', `-${v}.png`) });
  else if (k === 'eval') console.log(JSON.stringify(await p.evaluate(v)));
}
await p.screenshot({ path: out, fullPage: false });
await b.close();
