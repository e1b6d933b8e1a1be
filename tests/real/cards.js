// node cards.js PATH - opens a page of the real Home Assistant and prints, as JSON, which cards it shows and what they complain of.
require('./page.js')(process.argv[2], async page => {
  await page.locator('hui-heading-card').last().waitFor();
  await page.locator('hui-history-graph-card').locator('canvas, .info').first().waitFor();
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
  return {
    complaints: await texts('hui-error-card, hui-warning, hui-warning-element, hui-error-badge, hui-entity-not-found'),
    tiles: await texts('hui-tile-card:visible'),
    gauges: await page.locator('hui-gauge-card:visible').count(),
    graphs: await page.locator('hui-history-graph-card:visible, hui-statistics-graph-card:visible').count(),
    markdown: await texts('hui-markdown-card:visible'),
  };
}).catch(error => { console.error(error.message); process.exit(1); });
