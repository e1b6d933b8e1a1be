// node picker.js PATH LABEL - opens an automation made of a blueprint, and prints, as JSON, what the picker of the input LABEL offers.
require('./page.js')(process.argv[2], async page => {
  await page.locator('ha-settings-row', { hasText: process.argv[3] }).locator('ha-entity-picker').first().click();
  const offered = page.locator('ha-picker-combo-box ha-combo-box-item');
  await offered.first().waitFor();
  return { offered: (await offered.allInnerTexts()).map(text => text.split('\n').slice(0, 2)) };
}).catch(error => { console.error(error.message); process.exit(1); });
