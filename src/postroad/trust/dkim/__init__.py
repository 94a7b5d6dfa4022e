"""DomainKeys Identified Mail (RFC 6376, 8301, 8463): a domain answers for a message by a signature in its header."""
